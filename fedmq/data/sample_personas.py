"""The voices of the bundled sample: eight busy customers, all invented, and what everyone says.

The many other customers borrow the typing habits and a few words of one of the eight. For slots and
alternatives see `sample_brands`.
"""

from __future__ import annotations

from typing import NamedTuple


class Persona(NamedTuple):
    """A way of writing: preferred brands, own words for slots, own remarks, typing habits with their probabilities."""

    brands: tuple[str, ...]
    slots: dict[str, str]
    remarks: str
    habits: dict[str, float]


PERSONAS = (
    Persona(  # the road warrior
        brands=("NimbusAir", "HarborBank"),
        slots={
            "city": "Denver / Chicago / Boston / Newark",
            "opening": "Once again / Unbelievable / Listen / For the record / Gentlemen",
            "feeling": (
                "Platinum status means nothing to you. / Two million miles and this is how {team} treats me. / "
                "Unacceptable. / This is my fourth {product} this week."
            ),
            "sign": "Regards, Frank / F. / Frank, Platinum member",
        },
        remarks=(
            "I have a board meeting in {city} at {time} / my lounge pass does not scan / "
            "put me on the next flight or call me / the wifi on board is a disgrace as well / "
            "my assistant has called {count} times / your competitor leaves on time every day"
        ),
        habits={"long": 0.8, "formal": 0.9, "tag": 0.2, "emoji": 0.0},
    ),
    Persona(  # the gamer
        brands=("PixelForge", "DashPlate"),
        slots={
            "opening": "bruh / yo / lol / dude / ngl / bro",
            "feeling": (
                "im so mad rn. / literally unplayable. / this is so trash fr. / fix ur servers. / gg i guess. / smh."
            ),
            "ask": "when fix? / anyone else? / wtf is going on? / can u fix this? / any eta?",
            "emoji": "💀 / 😭 / 😤 / 🤡",
        },
        remarks=(
            "my whole squad got kicked / double xp weekend btw / i was top of the leaderboard / "
            "even my cousin has the same error / i just want to play after school / lost my rank because of this"
        ),
        habits={"lower": 1.0, "short": 0.8, "emoji": 0.6, "tag": 0.4, "nopunct": 0.7},
    ),
    Persona(  # the grandmother
        brands=("VoltMobile", "Marlowes"),
        slots={
            "opening": "Good morning dear / Hello dear / Dear sir or madam / Good afternoon / Hello there",
            "feeling": (
                "I am rather upset. / My late husband always trusted {team}. / I am not good with these machines. / "
                "It is such a shame."
            ),
            "ask": "Could a kind person help me? / What am I to do, please? / Would you be so good as to call me?",
            "sign": "God bless, Dorothy / Yours, Dorothy / Love, Dorothy x",
        },
        remarks=(
            "my grandson says to write to you here / I only use it to call my sister / "
            "the young man in the shop was very polite / my garden club is waiting for me / "
            "I do not understand the letter you sent / it was a present for my granddaughter"
        ),
        habits={"long": 0.9, "formal": 1.0, "tag": 0.0, "emoji": 0.05, "praise": 0.25},
    ),
    Persona(  # the commuter
        brands=("CrossRail_Help",),
        slots={
            "opening": "Morning / Evening / Here we go / Day {count} of this / Oh look",
            "feeling": (
                "Shambles. / Same old story. / What do I pay {amount} a day for? / Bunch of clowns. / Pure comedy."
            ),
            "ask": "Any chance of a train today? / What's the excuse this time? / Delay repay?",
            "emoji": "🙄 / 🚂 / 🤬 / 😴",
        },
        remarks=(
            "boss is not amused / platform 2 is rammed / standing next to the loo again / "
            "two carriages for the whole county / I could have walked / the announcement said leaves on the line / "
            "missed the school pick up again"
        ),
        habits={"short": 0.5, "tag": 0.8, "emoji": 0.3},
    ),
    Persona(  # the shop owner
        brands=("HarborBank", "QuillApps"),
        slots={
            "opening": "Small business owner here / Hi team / Urgent / Need help",
            "feeling": (
                "This is costing me money every hour. / I have staff to pay. / My bakery runs on this. / "
                "I can't run a shop like this."
            ),
            "sign": "Maria / Maria from the bakery / - M.",
        },
        remarks=(
            "payroll is due {when} / my accountant needs the file by {time} / customers are waiting in line / "
            "the card reader is down too / I have invoices to send / we open at 6am and I need this fixed"
        ),
        habits={"long": 0.6, "caps": 0.3, "tag": 0.3, "emoji": 0.1},
    ),
    Persona(  # the student
        brands=("DashPlate", "VoltMobile"),
        slots={
            "opening": "OMG / Ummm / Guys / Helloooo / Sooo / Wait what",
            "feeling": (
                "I'm literally starving. / I could cry. / I can't even. / This was my treat after finals!! / "
                "So sad right now."
            ),
            "ask": "Help?? / Pls pls fix this? / Can I get my money back plsss? / Hellooo anyone there??",
            "emoji": "😭😭 / 😩 / 🥺 / 🍕 / 💔",
        },
        remarks=(
            "my roommates already ate without me / I have an exam at {time} / it's raining so hard here / "
            "broke college kid btw / I've been dreaming of it all day / the guacamole is missing too"
        ),
        habits={"bang": 0.9, "emoji": 0.8, "tag": 0.5},
    ),
    Persona(  # the system administrator
        brands=("QuillApps", "PixelForge"),
        slots={
            "opening": "FYI / Bug report / Reproducible / Hi / Follow-up",
            "feeling": (
                "Please escalate. / No workaround so far. / QA asleep? / Regression since the last build. / "
                "Ticket open, no response."
            ),
            "ask": "Known issue? / Is there a changelog? / ETA for a hotfix? / Where do I send the logs?",
            "more": (
                "Steps: open, sign in, wait {minutes} s -&gt; crash. / Logs attached {link} / "
                "CPU &gt; {percent}, RAM &lt; 2 GB free. / Clean install, same result. / "
                "Works on build 4.{num}, fails on 5.{num}."
            ),
        },
        remarks=(
            "{count} seats affected here / DNS and proxy are fine / cache cleared, no change / "
            "same on the beta channel / status page is all green, of course / rolled back to the old version"
        ),
        habits={"nopunct": 0.1, "tag": 0.3, "emoji": 0.0, "link": 0.5},
    ),
    Persona(  # the bargain hunter
        brands=("Marlowes", "CrossRail_Help", "DashPlate"),
        slots={
            "opening": "WOW / Excuse me / Hello?! / Attention / Oi",
            "feeling": (
                "DISGUSTING service. / I will tell EVERYONE. / You just lost a customer. / False advertising!! / "
                "I know my rights. / SHAME on {team}."
            ),
            "ask": (
                "WHERE is my voucher? / When do I get my {amount} back? / Who is the manager? / "
                "What about compensation?"
            ),
            "emoji": "😡 / 😡😡 / 👎 / 🤬",
        },
        remarks=(
            "I have the receipt right here / the voucher says {percent} off / it was cheaper at the other shop / "
            "I want it in writing / two for one means two for one / my sister got hers for {amount} / "
            "the clearance sale is a LIE"
        ),
        habits={"caps": 0.6, "bang": 0.7, "emoji": 0.4, "tag": 0.4},
    ),
)

COMMON = {
    "count": "2 / 3 / 4 / 5 / 6 / 8",
    "hours": "2 / 3 / 4 / 5 / 6",
    "minutes": "15 / 20 / 25 / 30 / 40 / 45 / 50 / 60 / 90",
    "days": "2 / 3 / 4 / 5 / 7 / 10 / 14",
    "num": "3 / 4 / 5 / 12 / 101 / 404 / 500 / 503",
    "percent": "0% / 12% / 47% / 99%",
    "time": "9am / 4pm / 5pm / 8pm / noon / midnight",
    "amount": "$5 / $9.99 / $12 / $20 / $25 / $35 / $49.99 / $60 / $120",
    "when": "today / yesterday / last night / this morning / last week / Monday / Friday / Sunday",
    "soon": "tomorrow / this week / soon / on Monday",
    "link": "https://t.co/{hash}",
    "agent": "^JD / ^AM / ^KT / ^RS / ^LB / ^MC / ^Tess / ^Omar / -Ana / -Ben",
    "opening": "Hi / Hey / Hello / Please help / So / Ok / Seriously / Um / Really / Once again",
    "ask": (
        "What's going on? / Can you help? / Please fix this. / Can someone help me? / What should I do now? / "
        "Any update? / Who do I talk to? / When will this be fixed? / How is that ok? / Please check your DMs. / "
        "I want my money back. / Is this normal?"
    ),
    "feeling": (
        "So disappointed. / &gt;:( / This is ridiculous. / Not happy at all. / Worst service ever. / "
        "Not impressed. / I expected better from {team}. / Never again. / I am so done with {team}. / Very poor. / "
        "It's a joke. / Been a customer for {days} years."
    ),
    "more": (
        "I already tried {count} times. / Called {when} and nobody could help. / The {product} was fine {when}. / "
        "This has been going on for {days} days. / It happened {when} as well. / "
        "Your terms &amp; conditions don't say anything about it. / See the screenshot {link} / "
        "I waited {minutes} minutes on the phone. / I did everything {team} told me. / "
        "First the {product}, now this."
    ),
    "follow": (
        "I sent you a DM {when}. / Done, please check. / Still waiting. / No, that did not work. / "
        "Already did that, same thing. / It says error {num} now. / It was {when}, around {time}. / "
        "I don't have that number any more. / How long will it take? / That link does not work for me. / "
        "It's {percent} done and stuck again. / Nobody called me back. / What's the point of the {product} then?"
    ),
    "thanks": (
        "{thank} {who}, {result}. / {thank} {who}! {result}. / {thank}, {result}. / {result}, {thank} {who}. / "
        "{thank} {who}, {result}, {result}."
    ),
    "thank": (
        "thanks / thank you / thanks so much / ok great, thanks / brilliant, thank you / cheers / much appreciated"
    ),
    "who": "guys / team / all / Ana / Ben / Omar / Tess / everyone",
    "result": (
        "it works now / that fixed it / {team} sorted it out {when} / got my refund {when} / "
        "the {product} is fine again / my {product} is back / all good now &lt;3 / you made my day / "
        "it took only {minutes} minutes / the {product} looks good / I got {amount} back / no more errors"
    ),
    "sorry": (
        "We're sorry to hear this / Sorry about the trouble / Thanks for reaching out / "
        "Oh no, that's not what we want / We understand the frustration / Thanks for your patience / "
        "Apologies for the wait / Hi there, thanks for letting us know / We hear you"
    ),
    "assure": (
        "We're here to help. / We'll get this sorted. / Please keep us posted. / We'll look into it right away. / "
        "Thanks for bearing with us. / Let us know how it goes. / Our team is happy to help."
    ),
    "welcome": (
        "You're welcome! / Glad to hear it! / Happy to help! / That's great news! / Any time! / "
        "Thanks for letting us know!"
    ),
    "wish": (
        "Have a great day. / Enjoy the rest of your week. / We're here if you need us. / "
        "Thanks for being with us. / Take care!"
    ),
    "emoji": "😡 / 😤 / 🙄 / 😩 / 😭 / 🤦 / 😠 / 👎",
    "happy": "😊 / 🙌 / 👍 / ❤️ / 😍 / 🎉",
    "brandmoji": "😊 / 💙 / 🙏 / ✨",
    "sign": "",
}
