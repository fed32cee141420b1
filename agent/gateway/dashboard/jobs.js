// What runs and what waits: progress, preview, the one sentence why; the classes, their bounds.

import { ask, request } from "./api.js";
import { confirm } from "./dialogs.js";
import { ageS, band, by, clock, count, drop, el, keyed, named, show, span, write } from "./draw.js";

const SHOWN = 50;
const PREVIEWS = 32;

const progress = new Map(); // of request id and requester: the newest progress frame
const previews = new Map(); // of request id: the address of the newest preview

const name = (one) => `${one.requester} ${one.request_id}`;

export function heardProgress(frame) {
  progress.set(name(frame), frame);
  const row = [...by("running").children].find((one) => one.dataset.key === name(frame));
  if (row) moved(row, frame);
}

export function forget(frame) {
  progress.delete(name(frame));
  drop(previews.get(frame.request_id));
  previews.delete(frame.request_id);
}

export function heardPreview(about, blob) {
  const old = previews.get(about.request_id);
  const address = URL.createObjectURL(blob);
  previews.set(about.request_id, address);
  for (const image of document.querySelectorAll("img[data-preview]")) {
    if (image.dataset.preview === about.request_id) image.src = address;
  }
  drop(old);
  if (previews.size > PREVIEWS) {
    const [first] = previews.keys();
    drop(previews.get(first));
    previews.delete(first);
  }
}

export function classes(lines) {
  keyed(by("classes"), lines, (line) => line.priority, newClass, changeClass);
}

function newClass(line) {
  return el(
    "li.class",
    {},
    el("p.name", {}, line.priority),
    el("p.waiting", {}, el("strong", { "data-is": "waiting" }), " waiting"),
    el("div.bound", { "data-is": "bound", "aria-hidden": "true" }, el("span")),
    el("p.words", { "data-is": "words" }),
  );
}

function changeClass(item, line) {
  const oldest = line.oldest_at ? ageS(line.oldest_at) : 0;
  const share = line.bound_s ? Math.min(1, oldest / line.bound_s) : Number(oldest > 0);
  item.dataset.level = line.late ? "late" : share > 0.66 ? "soon" : "well";
  if (line.paused_until) item.dataset.level = "paused";
  write(named(item, "waiting"), line.waiting.toLocaleString("en"));
  named(item, "bound").firstElementChild.style.setProperty("width", `${share * 100}%`);
  write(named(item, "words"), classWords(line, oldest));
}

function classWords(line, oldest) {
  const bound = line.bound_s ? `bound ${span(line.bound_s)}` : "starts at once";
  const words = [line.paused_until ? "paused" : bound];
  if (line.oldest_at) words.push(`oldest ${span(oldest)}`);
  if (line.late) words.push(`${line.more ? "at least " : ""}${line.late} late`);
  else if (line.late_at) words.push(`next late in ${span(-ageS(line.late_at))}`);
  return words.join(" · ");
}

export function queue(found, mayCancel) {
  const running = found.queue.filter((one) => one.status === "processing");
  const waiting = found.queue.filter((one) => one.status === "queued").slice(0, SHOWN);
  keyed(by("running"), running, name, (one) => newRun(one, mayCancel), changeRun);
  keyed(by("waiting"), waiting, name, (one) => newWait(one, mayCancel), changeWait);
  write(by("running-count"), running.length ? String(found.active_generations) : "");
  write(by("running-none"), "Nothing is being drawn.");
  show(by("running-none"), !running.length);
  write(by("waiting-count"), waitingCount(found));
  const more = found.queued_requests - waiting.length;
  write(
    by("waiting-none"),
    more > 0 ? `and ${count(more, "more request")} behind these` : "Nothing waits.",
  );
  show(by("waiting-none"), more > 0 || !waiting.length);
}

function waitingCount({ queued_requests: waiting, eta_calibration_percent: kept }) {
  const told =
    kept == null ? "" : `${Math.round(kept)} % have started within the time they were told`;
  return [waiting ? waiting.toLocaleString("en") : "", told].filter(Boolean).join(" · ");
}

export function noQueue(text) {
  for (const part of ["running", "waiting"]) {
    by(part).replaceChildren();
    write(by(`${part}-none`), text);
    show(by(`${part}-none`), true);
  }
}

function newRun(one, mayCancel) {
  const preview = el("img", { alt: "", width: 72, height: 72, "data-preview": one.request_id });
  if (previews.has(one.request_id)) preview.src = previews.get(one.request_id);
  return el(
    "li.job",
    {},
    el("div.frame", {}, preview),
    el(
      "div.body",
      {},
      el("p.prompt", {}, one.prompt ?? one.request_id),
      el("p.meta", { "data-is": "meta" }),
      el("progress", { max: 100, "data-is": "bar", "aria-label": `Progress of ${one.request_id}` }),
      el("p.meta", { "data-is": "message" }),
    ),
    mayCancel(one) ? cancelButton(one) : null,
  );
}

function changeRun(item, one) {
  const who = [one.priority, one.requester, [one.engine, one.model].filter(Boolean).join(" ")];
  if (one.attempt > 1) who.push(`attempt ${one.attempt}`);
  if (one.worker) who.push(`on ${one.worker}`);
  write(named(item, "meta"), who.filter(Boolean).join(" · "));
  const known = progress.get(name(one));
  if (known && known.attempt >= (one.attempt ?? 0)) moved(item, known);
  else moved(item, { progress_percent: one.progress_percent ?? 0, message: "", eta_s: ends(one) });
}

const ends = (one) => (one.estimated_completion ? -ageS(one.estimated_completion) : null);

function moved(item, frame) {
  const bar = named(item, "bar");
  bar.value = frame.progress_percent;
  const left = frame.eta_s > 0 ? `about ${span(frame.eta_s)} left` : "";
  const words = [`${frame.progress_percent} %`, frame.message, left];
  write(named(item, "message"), words.filter(Boolean).join(" · "));
}

function newWait(one, mayCancel) {
  return el(
    "li.wait",
    {},
    el("span.place", { "data-is": "place" }),
    el(
      "div.body",
      {},
      el("p.prompt", {}, one.prompt ?? one.request_id),
      el("p.why", { "data-is": "why" }),
      el("p.meta", { "data-is": "meta" }),
    ),
    mayCancel(one) ? cancelButton(one) : null,
  );
}

function changeWait(item, one) {
  const [early, late] = one.estimated_wait_band ?? [];
  write(named(item, "place"), one.queue_position ?? "");
  write(named(item, "why"), one.waits_for ?? "");
  const starts =
    one.estimated_wait_seconds === null
      ? "start not known"
      : `starts ${band(one.estimated_wait_seconds, early, late)}`;
  const words = [one.priority, one.requester, starts, `asked ${span(ageS(one.created_at))} ago`];
  write(named(item, "meta"), words.join(" · "));
}

export function cancelButton(one, done) {
  const made = el(
    "button.quiet.cancel",
    { type: "button", "aria-label": `Cancel ${one.request_id}` },
    "Cancel",
  );
  made.addEventListener("click", async () => {
    const text = one.prompt ? `“${one.prompt}” of ${one.requester}` : one.request_id;
    const act = () => ask("DELETE", request(one));
    if (await confirm("Cancel this request?", text, "Cancel it", act)) done?.();
  });
  return made;
}

const DECIDED = 20;

// The last decisions of all workers, newest first; `mmg replay` plays one again.
export function decisions(workers) {
  const found = workers
    .flatMap((worker) => (worker.decisions ?? []).map((one) => ({ ...one, worker: worker.worker })))
    .sort((a, b) => Date.parse(b.at) - Date.parse(a.at))
    .slice(0, DECIDED);
  show(by("decided"), found.length > 0);
  keyed(by("decisions"), found, (one) => `${one.worker} ${one.seq} ${one.at} ${one.job}`, decision);
}

function decision(one) {
  const again = one.seq ? el("code", {}, `mmg replay ${one.seq}`) : null;
  const rule = one.rule === null ? "" : `rule ${one.rule}`;
  return el(
    "li",
    {},
    el("b", {}, one.what),
    el("time.meta", { datetime: one.at }, clock(one.at)),
    el("span.meta", {}, [one.job.split("#")[0], rule].filter(Boolean).join(" · ")),
    again,
    el("span.why", {}, one.reason),
  );
}
