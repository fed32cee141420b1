// What was asked for and what became of it: filters, pages that stay right, one request in full.

import { get, picture, post, query, request, toPicture } from "./api.js";
import { open } from "./dialogs.js";
import {
  by,
  bytes,
  clock,
  count,
  el,
  keyed,
  named,
  show,
  took,
  thumb,
  usd,
  write,
} from "./draw.js";
import { cancelButton } from "./jobs.js";

const PAGE = 48;
const ENDED = new Set(["completed", "failed", "cancelled"]);

let rows = [];
let cursor = null;
let turn = 0;
let caller = { refresh: () => {}, again: () => {} };

const newest = new WeakMap(); // of each tile: its request as it was told last

const name = (one) => `${one.requester} ${one.request_id}`;

export function begin(hooks) {
  caller = hooks;
  const form = by("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => load().catch(failed));
  by("more").addEventListener("click", () => load(cursor).catch(failed));
}

const failed = (error) => write(by("history-count"), error.message);

const filters = () => Object.fromEntries(new FormData(by("filters")));

// Newest again, or the page behind `from`; an answer that was overtaken is dropped.
export async function load(from = null) {
  const mine = ++turn;
  const page = await get(`/history${query({ ...filters(), limit: PAGE, cursor: from })}`);
  if (mine !== turn) return;
  rows = from ? [...rows, ...page.generations] : page.generations;
  cursor = page.next_cursor;
  draw(page.total);
}

// The first page anew, in front of what was opened behind it.
export async function refresh() {
  if (rows.length <= PAGE) return load();
  const mine = ++turn;
  const page = await get(`/history${query({ ...filters(), limit: PAGE })}`);
  if (mine !== turn) return undefined;
  const fresh = new Set(page.generations.map(name));
  rows = [...page.generations, ...rows.filter((one) => !fresh.has(name(one)))];
  return draw(page.total);
}

function draw(total) {
  keyed(by("history"), rows, name, newRow, changeRow);
  write(by("history-count"), total ? count(total, "request") : "");
  const filtered = Object.values(filters()).some(Boolean);
  write(
    by("history-none"),
    filtered ? "Nothing fits these filters." : "Nothing was asked for yet.",
  );
  show(by("history-none"), !rows.length);
  show(by("more"), cursor !== null);
}

export function none(text) {
  by("history").replaceChildren();
  write(by("history-none"), text);
  show(by("history-none"), true);
  show(by("more"), false);
}

function newRow() {
  const button = el(
    "button.tile",
    { type: "button" },
    el("span.frame", { "data-is": "frame" }),
    el("span.prompt", { "data-is": "prompt" }),
    el("span.meta", { "data-is": "meta" }),
  );
  const item = el("li", {}, button);
  button.addEventListener("click", () => detail(newest.get(item)));
  return item;
}

function changeRow(item, one) {
  newest.set(item, one);
  const frame = named(item, "frame");
  const address = one.thumbnail_url ?? "";
  if (frame.dataset.address !== address) {
    frame.dataset.address = address;
    frame.replaceChildren(
      address ? thumb(picture(address), 200) : el("span.blank", {}, blank(one)),
    );
  }
  item.dataset.status = one.status;
  write(named(item, "prompt"), one.prompt ?? one.request_id);
  const time = one.generation_time_seconds;
  const words = [
    one.status === "completed" ? one.model_used : one.status,
    time === null ? "" : took(time),
    usdOf(one),
    clock(one.created_at),
  ];
  write(named(item, "meta"), words.filter(Boolean).join(" · "));
}

const usdOf = (one) => (one.cost_usd ? usd(one.cost_usd) : "");

function blank(one) {
  if (one.pruned_at) return "pruned";
  return (
    { failed: "failed", cancelled: "cancelled", processing: "drawing", queued: "waiting" }[
      one.status
    ] ?? "no picture"
  );
}

export async function detail(one) {
  const chain = el("ol.chain", {}, el("li", {}, "Reading the chain"));
  const dialog = open(
    "Request",
    el("div.detail", {}, large(one), el("div", {}, words(one), acts(one))),
    el("h3", {}, "What happened"),
    chain,
  );
  dialog.dataset.wide = "";
  dialog.addEventListener("close", () => delete dialog.dataset.wide, { once: true });
  try {
    const snapshot = await get(request(one));
    chain.replaceChildren(...snapshot.chain.map(link));
    if (!snapshot.chain.length) chain.replaceChildren(el("li", {}, "It waits; nobody has begun."));
  } catch (error) {
    chain.replaceChildren(
      el("li", {}, error.status === 404 ? "Its chain is no longer kept." : error.message),
    );
  }
}

function large(one) {
  if (!one.output_url) return el("div.large.blank", {}, blank(one));
  const image = thumb(picture(one.output_url), 512, one.prompt ?? "");
  return toPicture(el("a.large", { target: "_blank", rel: "noopener" }, image), one.output_url);
}

function words(one) {
  const facts = [
    ["Request", one.request_id],
    ["Of", one.requester],
    ["Class", one.priority],
    ["Asked", clock(one.created_at)],
    [
      "Drawn by",
      [one.engine, one.model_used, one.worker && `on ${one.worker}`].filter(Boolean).join(" "),
    ],
    ["Decision", one.reason],
    ["Waited", one.queue_time_seconds === null ? "" : took(one.queue_time_seconds)],
    ["Took", one.generation_time_seconds === null ? "" : took(one.generation_time_seconds)],
    ["Cost", one.cost_usd === null ? "" : usd(one.cost_usd)],
    ["Seed", one.seed],
    ["Pictures", one.output_count > 1 ? one.output_count : ""],
    ["Size", one.file_size_bytes ? bytes(one.file_size_bytes) : ""],
    ["Smaller model", one.downgraded ? "yes, the card was full" : ""],
    ["Error", one.error_code ? `${one.error_code}: ${one.error_message}` : ""],
    ["Replay of", one.replay_of],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  const list = facts.flatMap(([what, value]) => [el("dt", {}, what), el("dd", {}, String(value))]);
  return el("div", {}, el("p.whole", {}, one.prompt ?? ""), el("dl", {}, ...list));
}

function link(one) {
  const error = one.error ? `${one.error.code}: ${one.error.message}` : "";
  const said = one.reason ?? (one.by ? `by ${one.by}` : "");
  return el(
    "li",
    { "data-status": one.status },
    el("b", {}, one.kind),
    el(
      "time.meta",
      { datetime: one.at },
      new Date(one.at).toLocaleTimeString([], { hourCycle: "h23" }),
    ),
    el("span", {}, [one.message, error].filter(Boolean).join(" · ")),
    said ? el("span.why", {}, said) : null,
  );
}

function acts(one) {
  const told = el("p.meta", { role: "status" });
  const act = (word, path, body) => {
    const made = el("button", { type: "button" }, word);
    made.addEventListener("click", () => run(made, told, path, body));
    return made;
  };
  const buttons = [];
  if (one.output_url) {
    const link = el("a.button", { download: `${one.request_id}.png` }, "Download");
    buttons.push(toPicture(link, one.output_url));
  }
  if (ENDED.has(one.status)) buttons.push(act("Send again", request(one, "/replay")));
  else buttons.push(cancelButton(one, caller.refresh));
  if (one.status === "completed") {
    buttons.push(act(one.pinned ? "Unpin" : "Pin", request(one, one.pinned ? "/unpin" : "/pin")));
  }
  if (one.prompt) {
    const again = el("button", { type: "button" }, "Use this prompt");
    again.addEventListener("click", () => {
      by("dialog").close();
      caller.again(one);
    });
    buttons.push(again);
  }
  return el(
    "div.acts",
    {},
    el("div.actions", {}, ...buttons),
    one.status === "completed" ? rating(one, told) : null,
    told,
  );
}

async function run(button, told, path, body) {
  button.disabled = true;
  try {
    const answer = await post(path, body);
    write(
      told,
      answer.replay_of ? `Sent again as ${answer.request_id}.` : `Done: ${answer.kind ?? "noted"}.`,
    );
    caller.refresh();
  } catch (error) {
    write(told, error.status === 404 ? "This gateway cannot do that yet." : error.message);
    button.disabled = false;
  }
}

function rating(one, told) {
  const group = el("fieldset.rating", {}, el("legend", {}, "How good is it?"));
  for (const value of [1, 2, 3, 4, 5]) {
    const input = el("input", {
      type: "radio",
      name: "rating",
      value,
      checked: one.rating === value,
    });
    input.addEventListener("change", () =>
      run(input, told, request(one, "/rating"), { rating: value }).then(
        () => (input.disabled = false),
      ),
    );
    group.append(el("label", {}, input, String(value)));
  }
  return group;
}
