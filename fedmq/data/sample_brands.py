"""What the brands of the bundled sample sell, what goes wrong there, and what they answer.

`{slot}` in a phrase stands for one of that slot's alternatives, which ` / ` separates. A slot is
looked up in the customer's own table, then the brand's, then `COMMON` of `sample_personas`. Every brand is invented.
"""

from __future__ import annotations

from typing import NamedTuple


class Brand(NamedTuple):
    """A company that answers tweets: its handle, its words, customers' lines, its answers."""

    handle: str
    slots: dict[str, str]
    problems: str
    praises: str
    answers: str


BRANDS = (
    Brand(
        handle="NimbusAir",
        slots={
            "product": "flight / connection / booking / trip",
            "code": "NA214 / NA382 / NA77 / NA1906 / NA540 / NA613",
            "city": "Denver / Chicago / Boston / Seattle / Atlanta / Dallas / Phoenix / Miami / Newark / Portland",
            "tag": "#NimbusAir / #delayed / #travelfail / #lostluggage",
            "team": "Nimbus / NimbusAir / the gate staff",
        },
        problems=(
            "my flight {code} to {city} is delayed {hours} hours and nobody at the gate tells us anything / "
            "you lost my bag on {code} from {city} and the desk says to wait {days} more days / "
            "been on hold for {minutes} minutes to change my flight to {city} / "
            "your app won't let me check in for {code}, it keeps saying error {num} / "
            "why was {code} to {city} cancelled {when}? no email, no text, nothing / "
            "we are sitting on the tarmac in {city} for {minutes} minutes with no air and no water / "
            "I paid for an aisle seat to {city} and you moved me to the middle at the back / "
            "still no refund for the cancelled flight to {city}, it has been {days} days / "
            "missed my connection in {city} because {code} left late and now there is no hotel"
        ),
        praises=(
            "the crew on {code} to {city} was wonderful {when} / "
            "upgraded on my flight to {city}, what a nice surprise / "
            "shout out to the gate agent in {city} who found my bag"
        ),
        answers=(
            "we're sorry about the delay to your trip. Please send us your confirmation code by DM so we can "
            "check options / "
            "we don't like to hear that. Please share your bag tag number by DM and we'll take a look / "
            "the crew is waiting for a maintenance release and we expect to board in about {minutes} minutes / "
            "weather in {city} is slowing things down today, you can rebook at no charge here {link}"
        ),
    ),
    Brand(
        handle="VoltMobile",
        slots={
            "product": "phone / service / data plan / signal / bill",
            "plan": "Unlimited / Family 4 / Flex / Starter / Max",
            "city": "Austin / Tampa / Reno / Columbus / Fresno / Omaha / Tulsa",
            "tag": "#VoltMobile / #nosignal / #5bars / #outage",
            "team": "Volt / VoltMobile / your store",
        },
        problems=(
            "no signal in {city} since {when}, is there an outage? / "
            "my bill went up {amount} this month and nobody can tell me why / "
            "I was promised the {plan} plan for {amount} and you charged me double / "
            "my data is so slow I can't even load a map in {city} / "
            "your rep hung up on me after {minutes} minutes on hold about my {plan} plan / "
            "I upgraded {days} days ago and the new phone still can't make calls / "
            "how do I unlock my phone? the chat keeps closing on me / "
            "you keep texting me about the {plan} plan after I said stop {count} times / "
            "auto pay took {amount} twice from my account {when}"
        ),
        praises=(
            "switched to the {plan} plan and the speed is amazing / "
            "thanks to the store in {city} for fixing my phone in {minutes} minutes / "
            "full bars all the way to {city}, well done"
        ),
        answers=(
            "let's get your service back. Please DM us your zip code and we'll check the towers near you / "
            "we want to look at that bill with you. Please send a DM with your name and the last 4 digits / "
            "please switch airplane mode on and off, then restart the phone and let us know what you see / "
            "there is an outage in {city}. Our techs are on it and we expect it back in {hours} hours"
        ),
    ),
    Brand(
        handle="HarborBank",
        slots={
            "product": "account / card / transfer / payment / mortgage",
            "thing": "debit card / credit card / direct deposit / checking account",
            "tag": "#HarborBank / #banking / #fail / #locked",
            "team": "Harbor / HarborBank / your branch",
        },
        problems=(
            "I can't log in to my account, it says my password is wrong but I just changed it / "
            "my {thing} was declined {when} and there is plenty of money in there / "
            "you charged me a {amount} fee and I never went below the minimum / "
            "a transfer of {amount} has been pending for {days} days, where is it? / "
            "your app has been down since {when}, how am I supposed to pay rent? / "
            "someone used my {thing} for {amount} and the fraud line is closed / "
            "the branch closed at {time} and the ATM ate my card / "
            "I sent the same form {count} times and you still say it is missing / "
            "why do you need {days} days to replace a {thing}?"
        ),
        praises=(
            "the fraud team called me about a strange {amount} charge within {minutes} minutes, impressed / "
            "the lady at the branch fixed my {thing} so fast / finally a bank app that just works"
        ),
        answers=(
            "we'd like to help you get back in. Please never post account details here and DM us your zip code / "
            "please call the number on the back of your card, the team is there until {time} / "
            "we understand how worrying that is. A specialist can review the charge, please DM us a good time to "
            "call / "
            "online banking is slow for some customers at the moment and we are working to fix it"
        ),
    ),
    Brand(
        handle="Marlowes",
        slots={
            "product": "order / parcel / delivery / refund / gift card",
            "item": "lamp / winter coat / blender / rug / pair of boots / desk chair / set of plates / kettle",
            "tag": "#Marlowes / #whereismyorder / #sale / #shopping",
            "team": "Marlowes / the store / your courier",
        },
        problems=(
            "my order is {days} days late and the tracking has not moved since {when} / "
            "the {item} I ordered came broken and the box was empty on one side / "
            "you sent me a {item} but I ordered a {item} / "
            "my order says delivered but there is no {item} at my door / "
            "the sale price on the {item} changed to {amount} while it was in my basket / "
            "your store told me to call, the call center told me to go to the store / "
            "I returned the {item} {days} days ago and still have no refund / "
            "gift card says zero but there was {amount} on it {when} / "
            "the promo code doesn't work on the {item}, it says expired and the email is from today"
        ),
        praises=(
            "love my new {item}, thank you / the {item} came a day early and it is perfect / "
            "great help from the store with my {item} {when}"
        ),
        answers=(
            "we're sorry your order is late. Please DM us the order number and your postcode and we'll chase the "
            "courier / "
            "that is not how it should arrive. Can you send us a photo of the {item} and the label? / "
            "refunds take up to {days} working days to show. If it is longer please get in touch here {link} / "
            "we've passed this on to the store manager. Which store did you visit?"
        ),
    ),
    Brand(
        handle="PixelForge",
        slots={
            "product": "console / account / download / game / controller",
            "game": "Starfall 2 / Kings of Rust / Turbo Alley / Mythline / Deep Harvest",
            "tag": "#PixelForge / #gaming / #servers / #lag",
            "team": "PixelForge / the devs / your servers",
        },
        problems=(
            "servers down again? I get error {num} every time I start {game} / "
            "I bought {game} {when} and it won't download, stuck at {percent} / "
            "my account got banned for nothing while I was playing {game} / "
            "the update for {game} deleted my save, {hours} hours gone / "
            "controller keeps disconnecting in the middle of {game} / you charged me {amount} for {game} twice / "
            "party chat is broken since the update, nobody can hear me / "
            "when is the patch for {game} coming, the lag is unreal / "
            "the console turns itself off after {minutes} minutes of {game}"
        ),
        praises=(
            "the new {game} update is so good / finally finished {game}, best game this year / "
            "thanks for fixing the lag in {game} that quick"
        ),
        answers=(
            "thanks for letting us know. Please check the service status here {link} and tell us what you see / "
            "please try to restart the console and clear the cache, then start {game} again / "
            "we've let the {game} team know about this and a patch is on the way / "
            "please follow us and DM your online ID so that we can look into your account"
        ),
    ),
    Brand(
        handle="CrossRail_Help",
        slots={
            "product": "train / ticket / season ticket / service",
            "time": "7:12 / 8:03 / 8:47 / 17:25 / 18:10 / 6:55 / 21:30",
            "station": "Ashford / Milton / Kings Lane / Oakham / Redhill / Bridgeton / Westbury",
            "tag": "#CrossRail / #delays / #commute / #ghosttrain",
            "team": "CrossRail / the guard / your drivers",
        },
        problems=(
            "the {time} from {station} is cancelled again, third time this week / "
            "the {time} to {station} has only two coaches and we are packed like sardines / "
            "stuck outside {station} for {minutes} minutes, any news? / "
            "ticket machine at {station} is broken and the guard wants to fine me {amount} / "
            "no heating on the {time} from {station} and it is freezing / "
            "why does the board at {station} say on time when the {time} left {minutes} minutes ago? / "
            "how do I claim delay repay for the {time} to {station}? / "
            "left my bag on the {time} at {station}, who do I call? / "
            "toilets locked on the {time} to {station}, it is a {hours} hour journey"
        ),
        praises=(
            "the {time} from {station} was on time and clean, more of this please / "
            "lovely guard on the {time} to {station}, made my day / found my bag at {station}, thank you so much"
        ),
        answers=(
            "sorry for the delay this morning. The {time} was held due to a signal fault near {station} / "
            "you can claim for any delay over {minutes} minutes here {link} / "
            "I've reported this to the control team. Which coach are you in? / "
            "the {time} was cancelled due to a shortage of crew. Your ticket is valid on the next service"
        ),
    ),
    Brand(
        handle="DashPlate",
        slots={
            "product": "order / delivery / driver / refund",
            "dish": (
                "pad thai / burger and fries / pepperoni pizza / ramen / sushi box / chicken curry / tacos / salad"
            ),
            "tag": "#DashPlate / #hungry / #coldfood / #hangry",
            "team": "DashPlate / the driver / your support",
        },
        problems=(
            "my order is {minutes} minutes late and the driver is going the wrong way / "
            "the {dish} came cold and half of it was in the bag / "
            "you cancelled my {dish} after {minutes} minutes and kept the {amount} / "
            "driver says delivered but there is no {dish} here / ordered {dish} and got {dish}, I can't eat that / "
            "your app charged me {amount} twice for one {dish} / "
            "promo code says invalid, it was for {dish} {when} / "
            "I have been in the help chat for {minutes} minutes about my {dish} and nobody answers / "
            "no drink, no sauce, no napkins with my {dish}"
        ),
        praises=(
            "{dish} here in {minutes} minutes and still hot, you rock / "
            "the driver who brought my {dish} was a star / thanks for the credit, the new {dish} was great"
        ),
        answers=(
            "oh no, that's not the meal we wanted for you. Please DM us the email on the account and the order "
            "number / "
            "we've asked the driver for an update and your {dish} should be there in {minutes} minutes / "
            "a refund of {amount} is on its way to your card and takes {days} days / "
            "sorry about the mix up! You can report missing items in the app, or here {link}"
        ),
    ),
    Brand(
        handle="QuillApps",
        slots={
            "product": "app / subscription / license / update",
            "app": "Quill Notes / Quill Sheets / Quill Draw / Quill Cloud",
            "device": "laptop / tablet / phone / work PC / old Mac",
            "tag": "#QuillApps / #bug / #sync / #update",
            "team": "Quill / QuillApps / the devs",
        },
        problems=(
            "{app} keeps crashing on my {device} since the update / "
            "your app lost my notes, everything since {when} is gone / "
            "I can't log in to {app}, the reset email never comes / "
            "{app} won't sync between my {device} and my {device} / "
            "you renewed my subscription for {amount} after I cancelled it {when} / "
            "{app} is stuck at {percent} when I export / "
            "where did the dark mode go in {app}, I can't find it since the update / "
            "license says invalid on my new {device} and support has not answered for {days} days / "
            "{app} shows error {num} every time I open a file"
        ),
        praises=(
            "the new {app} is so fast on my {device}, great work / {app} saved my project {when}, thank you / "
            "love the new look of {app}"
        ),
        answers=(
            "thanks for the report. Which version of {app} do you have, and which {device} is it on? / "
            "please sign out, restart the {device} and sign in again, then tell us if it still happens / "
            "we're sorry about that. We can restore a backup for you, please DM us the email of the account / "
            "this is fixed in the update that comes out {soon}. More here {link}"
        ),
    ),
)
