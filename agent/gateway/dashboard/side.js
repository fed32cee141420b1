// Switches, engines, money, and the two scorecards the project promised to be judged by.

import { get, post } from "./api.js";
import { confirm } from "./dialogs.js";
import { by, clock, count, el, keyed, named, percent, took, usd, write } from "./draw.js";

const RATING_GOOD = 4;

export function switches(situation, refresh) {
  const items = [
    {
      key: "lanes",
      off: situation.paused,
      words: situation.paused ? held(situation.pause) : "Requests are handed out to workers.",
      button: situation.paused ? "Resume" : "Pause",
      act: () => pause(situation.paused).then(refresh),
    },
    {
      key: "intake",
      off: !situation.intake_open,
      words: situation.intake_open ? "New requests are taken." : "New requests are refused.",
      button: situation.intake_open ? "Close intake" : "Open intake",
      act: () => intake(situation.intake_open).then(refresh),
    },
  ];
  keyed(
    by("switches"),
    items,
    (one) => `${one.key} ${one.off}`,
    (one) =>
      el(
        "li",
        { "data-off": one.off },
        el("span", { "data-is": "words" }),
        el("button", { type: "button", onclick: one.act }, one.button),
      ),
    (item, one) => write(named(item, "words"), one.words),
  );
}

const held = (pause) =>
  pause?.paused ? `Paused by ${pause.by} at ${clock(pause.at)}: ${pause.reason}` : "Paused.";

function reason(label) {
  return el(
    "label.wide",
    {},
    label,
    el("input", { name: "reason", maxlength: 200, autocomplete: "off" }),
  );
}

function pause(paused) {
  const path = paused ? "/resume" : "/pause";
  const text = paused
    ? "Workers begin again with what waits, the most urgent first."
    : "Workers finish what they have and start nothing new. Requests are still taken, and wait.";
  return confirm(
    paused ? "Resume?" : "Pause all classes?",
    text,
    paused ? "Resume" : "Pause",
    (form) => post(path, { reason: form.get("reason") || "not given" }),
    reason("Why, for the others"),
  );
}

function intake(open) {
  const text = open
    ? "New requests will be refused with intake_closed. What is queued goes on."
    : "New requests will be taken again.";
  return confirm(
    open ? "Close the intake?" : "Open the intake?",
    text,
    open ? "Close it" : "Open it",
    (form) => post("/intake", { open: !open, reason: form.get("reason") || "not given" }),
    reason("Why, for the others"),
  );
}

export async function clear() {
  const fields = el(
    "div.filters",
    {},
    el(
      "label",
      {},
      "Class ",
      el(
        "select",
        { name: "priority" },
        ...["", "CRITICAL", "HIGH", "MEDIUM", "LOW"].map((one) =>
          el("option", { value: one }, one || "any"),
        ),
      ),
    ),
    el(
      "label",
      {},
      "Requester ",
      el("input", { name: "requester", maxlength: 64, placeholder: "anybody" }),
    ),
  );
  let counted = null;
  let wanted = null;
  await confirm(
    "Clear waiting requests",
    "First they are counted; nothing is cancelled yet.",
    "Count them",
    async (form) => {
      const [priority, requester] = [form.get("priority"), form.get("requester").trim()];
      wanted = { ...(priority && { priority }), ...(requester && { requester }) };
      if (!priority && !requester) wanted = { all: true };
      counted = await post("/queue/clear", wanted);
    },
    fields,
  );
  if (!counted) return false;
  const { impact } = counted;
  const whose = Object.entries(impact.by_requester)
    .map(([who, n]) => `${who} ${n}`)
    .join(", ");
  if (!impact.count) {
    await confirm("Nothing to clear", "No request that waits fits this.", "Good", async () => {});
    return false;
  }
  const text = `This cancels ${count(impact.count, "waiting request")} (${whose}). What runs goes on.`;
  return confirm("Cancel all of these?", text, `Cancel ${impact.count}`, () =>
    post("/queue/clear", { ...wanted, confirm: counted.confirm }),
  );
}

export function engines(workers) {
  const items = workers.flatMap((worker) =>
    (worker.engine_states ?? plain(worker)).map((one) => ({
      ...one,
      worker: worker.worker,
      key: `${worker.worker} ${one.name}`,
    })),
  );
  keyed(
    by("engines"),
    items,
    (one) => one.key,
    () =>
      el(
        "li",
        {},
        el("b", { "data-is": "name" }),
        el("span", { "data-is": "state" }),
        el("p.meta", { "data-is": "more" }),
      ),
    (item, one) => {
      item.dataset.level = one.up === false ? "late" : one.ready === false ? "soon" : "well";
      write(named(item, "name"), one.name);
      write(
        named(item, "state"),
        one.up === false ? "down" : one.ready === false ? "gets no jobs" : "ready",
      );
      const price = one.price_usd ? `${usd(one.price_usd)} an image` : "";
      write(named(item, "more"), [one.worker, price, one.reason].filter(Boolean).join(" · "));
    },
  );
}

const plain = (worker) => worker.engines.map((name) => ({ name, reason: worker.reason }));

export function money(workers, month) {
  const told = workers.map((one) => one.money).find(Boolean);
  const place = by("money");
  const parts = [];
  if (told) {
    const limit = told.day_limit_usd;
    parts.push(
      line(
        "Today",
        limit === null ? usd(told.spent_usd) : `${usd(told.spent_usd)} of ${usd(limit)}`,
      ),
    );
    if (limit)
      parts.push(
        el("progress", {
          max: limit,
          value: Math.min(limit, told.spent_usd),
          "aria-label": "Budget of the day used",
        }),
      );
    if (told.held_usd) parts.push(line("Set aside for calls under way", usd(told.held_usd)));
    const doubt = (told.unknown ?? []).reduce((sum, one) => sum + one.usd, 0);
    if (doubt) parts.push(line("Counted as spent, outcome unknown", usd(doubt)));
    for (const [who, spent] of told.by_requester.slice(0, 3))
      parts.push(line(who.replaceAll("-", "."), usd(spent)));
  }
  if (month) {
    parts.push(line("Last 30 days", usd(month.cost_usd)));
    parts.push(line("Avoided by staying local", usd(month.cost_avoided_usd), "saved"));
  }
  if (!parts.length) parts.push(el("p.none", {}, "Nobody tells what was spent."));
  const key = parts.map((one) => one.textContent + (one.value ?? "")).join("|");
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...parts);
}

const line = (what, value, kind = "") =>
  el(`p.line${kind && `.${kind}`}`, {}, el("span", {}, what), el("b", {}, value));

// Both are as the two documents set them; a figure with nothing behind it is not judged.
function checklist(month, crashes) {
  return [
    [
      "Images in 30 days",
      "80 or more",
      month.total_generations ? month.completed : null,
      (n) => n >= 80,
      String,
    ],
    ["Success rate", "over 95 %", month.success_rate, (p) => p > 95, percent],
    ["Generation time, mean", "under 60 s", month.avg_generation_time, (s) => s < 60, took],
    ["Made locally", "over 80 %", month.local_share, (p) => p > 80, percent],
    ["GPU crashes in 30 days", "none", crashes, (n) => n === 0, String],
    [
      "People's ratings, mean of 5",
      "works well: 4 or more",
      month.avg_rating,
      (r) => r >= RATING_GOOD,
      (r) => r.toFixed(1),
    ],
  ];
}

function strategy(week, crashes) {
  return [
    [
      "Images in 7 days",
      "20 or more",
      week.total_generations ? week.completed : null,
      (n) => n >= 20,
      String,
    ],
    ["Generation time, mean", "under 60 s", week.avg_generation_time, (s) => s < 60, took],
    ["Made locally", "over 95 %", week.local_share, (p) => p > 95, percent],
    ["GPU crashes in 30 days", "none", crashes, (n) => n === 0, String],
    [
      "People's ratings, mean of 5",
      "works well: 4 or more",
      week.avg_rating,
      (r) => r >= RATING_GOOD,
      (r) => r.toFixed(1),
    ],
  ];
}

export function scores(month, week, crashes) {
  if (!month || !week) return;
  const first = checklist(month, crashes);
  const good = met(first);
  const judged = first.filter((row) => row[2] !== null).length;
  let verdict =
    good >= 4 ? "a success" : good >= 2 ? "in order: keep watching" : "a failure: look into it";
  if (!judged || !month.completed) verdict = "nothing to judge yet";
  const second = strategy(week, crashes);
  const all = met(second);
  const open = second.filter((row) => row[2] === null).length;
  let other =
    all === second.length ? "met in full" : all + open === second.length ? "on the way" : "not met";
  if (!week.completed) other = "nothing to judge yet";
  const tables = [
    table("Checklist, one month", first, `${good} of ${first.length} met: ${verdict}.`),
    table("Strategy, one week", second, `${all} of ${second.length} met: ${other}.`),
  ];
  const key = tables.map((one) => one.textContent).join("|");
  if (by("scores").dataset.key === key) return;
  by("scores").dataset.key = key;
  by("scores").replaceChildren(...tables);
}

const met = (rows) => rows.filter(([, , value, judge]) => value !== null && judge(value)).length;

function table(title, rows, verdict) {
  const body = rows.map(([what, target, value, judge, write_]) => {
    const state = value === null ? "none" : judge(value) ? "met" : "missed";
    const words = { none: "no figure", met: "met", missed: "missed" }[state];
    return el(
      "tr",
      { "data-state": state },
      el("th", { scope: "row" }, what, el("span.meta", {}, target)),
      el("td", {}, value === null ? "–" : write_(value)),
      el(
        "td.mark",
        {},
        el("span.unseen", {}, words),
        el("span", { "aria-hidden": "true" }, { none: "·", met: "✓", missed: "✗" }[state]),
      ),
    );
  });
  return el(
    "table.score",
    {},
    el("caption", {}, title, el("span.verdict-line", {}, verdict)),
    el("tbody", {}, ...body),
  );
}

export async function figures() {
  const day = (days) => new Date(Date.now() - days * 86400000).toISOString();
  const month = await get(`/stats?since=${day(30)}`);
  return { month, week: await get(`/stats?since=${day(7)}`) };
}
