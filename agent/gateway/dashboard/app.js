// Puts the page together: one operator stream, few questions, nothing while nobody looks.

import { get, hasKey, isRelayed, keep, listen, root } from "./api.js";
import { cards, remember } from "./card.js";
import { confirm } from "./dialogs.js";
import { by, clock, el, now, setClock, show, write } from "./draw.js";
import * as history from "./history.js";
import { classes, decisions, forget, heardPreview, heardProgress, noQueue, queue } from "./jobs.js";
import * as make from "./make.js";
import { clear, engines, figures, money, scores, switches } from "./side.js";
import { unseen, verdict } from "./verdict.js";

const EVERY = { situation: 2000, queue: 4000, history: 30000, figures: 30000 };
const CLOSEST = { situation: 700, queue: 1500, history: 3000, figures: 10000 };
const AGAIN_MS = [1000, 2000, 4000, 8000, 15000];
const TERMINAL = new Set(["completed", "failed", "expired", "cancelled"]);

const state = { workers: [], month: null, week: null, crashes: null, operator: true };
const line = { socket: null, tries: 0, lostAt: null, live: false, streams: true };
const asked = new Map(); // of each part: when it was asked, and the timer of the next time

const parts = {
  async situation() {
    if (!state.operator) return;
    const found = await get("/situation");
    setClock(found.at);
    Object.assign(state, { workers: found.workers, crashes: found.gpu_crashes });
    verdict(found);
    classes(found.lines);
    cards(found.workers);
    engines(found.workers);
    decisions(found.workers);
    switches(found, () => soon("situation", 0));
    money(state.workers, state.month);
  },
  async queue() {
    queue(await get("/queue?limit=50"), () => true);
  },
  history: () => history.refresh(),
  async figures() {
    Object.assign(state, await figures());
    money(state.workers, state.month);
    scores(state.month, state.week, state.crashes);
  },
};

const refused = {
  situation(error) {
    if (error.status !== 403) return unseen(`How things stand cannot be told: ${error.message}`);
    state.operator = false;
    return requesterOnly();
  },
  queue: (error) =>
    noQueue(error.status === 404 ? "This gateway does not tell its queue." : error.message),
  history: (error) => history.none(error.message),
  figures: () => scores(null, null, null),
};

async function run(part) {
  const entry = asked.get(part) ?? {};
  clearTimeout(entry.timer);
  if (document.hidden || entry.busy) return;
  asked.set(part, { ...entry, at: performance.now(), busy: true });
  let wait = EVERY[part];
  try {
    await parts[part]();
    if (part !== "figures") answered();
  } catch (error) {
    wait = failed(part, error);
  } finally {
    const timer = setTimeout(run, wait, part);
    asked.set(part, { at: asked.get(part).at, busy: false, timer });
  }
}

function failed(part, error) {
  if (error.status === 0) lost();
  else if (error.status === 401) askKey("This gateway wants a key.");
  else if (error.status === 429) return Math.max(error.retryAfter, 1) * 1000;
  else if (error.status === undefined) throw error;
  else {
    answered();
    refused[part](error);
  }
  return EVERY[part];
}

// Something changed: ask, but not more often than the gateway likes.
function soon(part, least = CLOSEST[part]) {
  const entry = asked.get(part) ?? { at: -Infinity };
  if (document.hidden) return;
  clearTimeout(entry.timer);
  const wait = Math.max(0, entry.at + least - performance.now());
  asked.set(part, { ...entry, timer: setTimeout(run, entry.busy ? CLOSEST[part] : wait, part) });
}

const soonAll = () => Object.keys(parts).forEach((part) => soon(part, 0));

function heard(frame) {
  if (frame.kind === "progress") return heardProgress(frame);
  if (frame.kind === "resync") return soonAll();
  if (frame.kind === "alert" || frame.kind === "hello") return soon("situation");
  if (TERMINAL.has(frame.kind)) {
    forget(frame);
    soon("history");
    soon("figures");
  }
  soon("situation");
  return soon("queue");
}

async function connect() {
  if (line.socket || document.hidden || !line.streams || !state.operator) return;
  line.socket = "opening";
  try {
    line.socket = await listen(
      "",
      { previews: 1 },
      {
        opened: () => {
          line.live = true;
          answered();
          soonAll();
        },
        heard,
        seen: heardPreview,
        ended,
      },
    );
  } catch {
    ended();
  }
}

// An upgrade that was refused looks like a lost line to a page: the next answer tells them apart.
function ended() {
  const hidden = document.hidden;
  const never = !line.live;
  line.socket = null;
  line.live = false;
  told();
  if (hidden) return;
  line.tries += 1;
  if (never && line.tries > 3 && line.lostAt === null) line.streams = line.tries < 8;
  const wait = AGAIN_MS[Math.min(line.tries, AGAIN_MS.length) - 1] * (0.8 + Math.random() * 0.4);
  setTimeout(connect, wait);
  soon("situation", 0);
}

function lost() {
  line.lostAt ??= now();
  told();
}

function answered() {
  if (line.live) line.tries = 0;
  if (line.lostAt !== null) {
    line.lostAt = null;
    line.streams = true;
    connect();
    soonAll();
  }
  told();
}

function told() {
  const bar = by("lost");
  const words =
    line.lostAt === null
      ? ""
      : `No connection to the gateway since ${clock(line.lostAt)}. ` +
        "What you see is from before. It is tried again by itself.";
  write(bar, words);
  show(bar, words !== "");
  document.body.classList.toggle("stale", words !== "");
  const link = by("link");
  link.dataset.state = words ? "lost" : line.live ? "live" : "polling";
  write(link, words ? "No connection" : line.live ? "Live" : "Looked at every few seconds");
}

function requesterOnly() {
  unseen("This key sees its own requests. Ask for an image, and find yours in the history.");
  forOperators(false);
}

function forOperators(visible) {
  for (const part of document.querySelectorAll("[data-needs=situation], [data-for=operator]")) {
    show(part, visible);
  }
}

let asking = false;
async function askKey(text) {
  if (asking) return;
  asking = true;
  const field = el(
    "label.wide",
    {},
    "Key",
    el("input", { name: "key", type: "password", autocomplete: "off", required: true }),
  );
  const done = await confirm(
    "Who are you?",
    `${text} An operator makes one: mmg key add. It stays in this tab.`,
    "Use it",
    async (form) => {
      keep(form.get("key").trim());
      await get("/history?limit=1");
    },
    field,
  );
  asking = false;
  if (!done) keep(null);
  state.operator = true;
  forOperators(true);
  line.streams = true;
  show(by("key"), true);
  if (done) {
    connect();
    soonAll();
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (line.socket?.close) line.socket.close();
    for (const entry of asked.values()) clearTimeout(entry.timer);
  } else {
    connect();
    soonAll();
  }
});
addEventListener("online", soonAll);
addEventListener("offline", lost);

by("clear").addEventListener("click", async () => {
  if (await clear()) soonAll();
});
by("key").addEventListener("click", () => {
  keep(null);
  line.socket?.close?.();
  askKey("Another key?");
});
for (const link of document.querySelectorAll("a[data-root]")) {
  link.href = root(link.dataset.root);
  show(link, !isRelayed); // Behind a relay of the API alone, that is somebody else's page.
}
show(by("clear"), true);
show(by("key"), hasKey());
make.begin({
  done: () => {
    soon("queue");
    soon("history");
    soon("situation");
  },
});
history.begin({ refresh: soonAll, again: make.again });

get("/strip").then(
  (found) => remember(found.tracks),
  () => {},
);
for (const part of Object.keys(parts)) run(part);
connect();
