// Tabs by the ARIA pattern: one is in the tab order, arrows, Home and End go to the others.

import { at, element } from "./dom.js";

export function tabs(onShow) {
  const panels = [...document.querySelectorAll("[role=tabpanel]")];
  const buttons = panels.map((panel) => {
    panel.setAttribute("aria-labelledby", `tab-${panel.id}`);
    return element("button", { role: "tab", type: "button", id: `tab-${panel.id}`, "aria-controls": panel.id }, panel.dataset.title);
  });
  function show(chosen) {
    panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
      buttons[i].setAttribute("aria-selected", String(i === chosen));
      buttons[i].tabIndex = i === chosen ? 0 : -1;
    });
    onShow(panels[chosen].id);
  }
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => show(i));
    button.addEventListener("keydown", (event) => {
      const count = buttons.length;
      const to = { ArrowRight: (i + 1) % count, ArrowLeft: (i + count - 1) % count, Home: 0, End: count - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
      buttons[to].focus();
    });
  });
  at("tabs").append(...buttons);
  show(0);
}
