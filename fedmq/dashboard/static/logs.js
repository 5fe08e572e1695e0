// The end of a log, followed while it is looked at.

import { at, choices } from "./dom.js";
import { ask } from "./views.js";

const MAX_CHARACTERS = 1 << 18, FIRST = "coordinator.log";
let name = null, end = null;

export async function drawLogs() {
  const { folder, files } = await ask("/api/logs");
  at("log-dir").textContent = folder ?? "No logs are here; --log-dir says where they are.";
  choices(at("log-name"), files, files.includes(FIRST) ? FIRST : files[0]);
  if (!files.length) return;
  const shown = at("log-text"), chosen = at("log-name").value;
  const more = chosen === name ? `&start=${end}` : "";
  const tail = await ask(`/api/log?name=${encodeURIComponent(chosen)}${more}`);
  const atEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 40;
  if (tail.start === end && chosen === name) {
    if (tail.text) shown.textContent = (shown.textContent + tail.text).slice(-MAX_CHARACTERS);
  } else shown.textContent = tail.text;
  [name, end] = [chosen, tail.end];
  if (atEnd) shown.scrollTop = shown.scrollHeight;
}
