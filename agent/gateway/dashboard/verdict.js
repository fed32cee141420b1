// The first line: what is wrong, since when, the one command, and where the runbook says more.

import { ageS, by, clock, count, el, keyed, named, say, show, span, write } from "./draw.js";

const WORDS = { down: "Stopped", warn: "Worse than it should be", note: "For you to look at" };

export function verdict(situation) {
  const place = by("verdict");
  const [first, ...rest] = situation.incidents;
  const level = first ? first.level : "well";
  if (place.dataset.level === undefined) place.replaceChildren(...frame());
  place.dataset.level = level;
  const serious = level === "down" || level === "warn";
  headline(named(place, "headline"), serious ? first : null, situation);
  const others = serious ? rest : situation.incidents;
  keyed(named(place, "others"), others, (one) => `${one.name} ${one.sentence}`, other, dated);
  show(named(place, "others"), others.length > 0);
  say(serious ? first.sentence : "Nothing is wrong.");
  document.title = serious ? `${first.level === "down" ? "■" : "▲"} ${short(first)} · mmg` : "mmg";
}

export function unseen(text) {
  const place = by("verdict");
  place.dataset.level = "unknown";
  place.replaceChildren(el("p.sentence", {}, text));
  delete place.dataset.level;
}

const short = (incident) => incident.name.replaceAll("_", " ");

function frame() {
  return [
    el(
      "div.headline",
      { "data-is": "headline" },
      el("p.level", { "data-is": "level" }),
      el("p.sentence", { "data-is": "sentence" }),
      el("p.since", { "data-is": "since" }),
      el("div.act", { "data-is": "act" }),
    ),
    el("ul.others", { "data-is": "others", "aria-label": "What else is wrong" }),
  ];
}

function headline(place, incident, situation) {
  write(named(place, "level"), incident ? WORDS[incident.level] : "All is well");
  write(named(place, "sentence"), incident ? incident.sentence : calm(situation));
  write(named(place, "since"), incident?.since ? since(incident) : "");
  const key = incident ? `${incident.name} ${incident.command}` : "";
  const act = named(place, "act");
  if (act.dataset.key === key) return;
  act.dataset.key = key;
  act.replaceChildren(...(incident ? [command(incident), runbook(incident)] : []));
}

function calm({ workers, lines }) {
  const waiting = lines.reduce((sum, one) => sum + one.waiting, 0);
  const running = workers.reduce((sum, one) => sum + one.running.length, 0);
  const there = count(workers.length, "worker");
  if (!waiting && !running) return `${there} ready; nothing waits.`;
  const late = lines.some((one) => one.late);
  const rest = waiting ? `${count(waiting, "request")} waiting` : "nothing waits";
  return `${there} at work: ${running} running, ${rest}${waiting && !late ? ", none too long" : ""}.`;
}

const since = (one) => `since ${clock(one.since)}, for ${span(ageS(one.since))}`;

function other(incident) {
  return el(
    "li",
    { "data-level": incident.level },
    el("span.sentence", {}, incident.sentence),
    el("span.since", { "data-is": "since" }),
    command(incident),
    runbook(incident),
  );
}

function dated(item, incident) {
  write(named(item, "since"), incident.since ? since(incident) : "");
}

export function command(incident) {
  const copy = el(
    "button.quiet",
    { type: "button", "aria-label": `Copy the command ${incident.command}` },
    "Copy",
  );
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(incident.command);
      write(copy, "Copied");
    } catch {
      write(copy, "Select it by hand"); // Without https a page has no clipboard.
    }
  });
  return el("span.command", {}, el("code", {}, incident.command), copy);
}

function runbook(incident) {
  const what = short(incident);
  return el(
    "a",
    { href: `runbook#${incident.runbook}`, "aria-label": `Runbook: ${what}` },
    "Runbook",
  );
}
