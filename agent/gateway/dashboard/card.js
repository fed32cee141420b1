// The card as a strip over time: who held how much, when a job had the lease, and what is owed.

import { by, clock, el, gb, keyed, named, now, show, span, svg, write, ageS } from "./draw.js";

const WIDTH = 640;
const HEIGHT = 132;
const TOP = 14; // where the lease is drawn
const SPANS_S = [60, 180, 600, 1800]; // as much of them as there is something to show
const GAP_S = 45;
const TONES = 6;

const tracks = new Map(); // of a card: its name, worker and samples

export function remember(found) {
  for (const track of found) tracks.set(track.card, { ...track, samples: [...track.samples] });
}

export function take(workers) {
  for (const worker of workers) {
    for (const card of worker.cards ?? []) {
      if (card.total_mib == null || card.free_mib == null || card.state === "missing") continue;
      const key = card.uuid ?? `${worker.worker} ${card.server}`;
      const track = tracks.get(key) ?? { card: key, samples: [] };
      tracks.set(key, { ...track, name: card.name ?? "card", worker: worker.worker, now: card });
      const last = track.samples.at(-1);
      if (!last || Math.abs(Date.parse(worker.at) - Date.parse(last.at)) >= 1000) {
        track.samples.push(sample(worker.at, card));
      }
    }
  }
}

function sample(at, card) {
  const held = [{ name: "ComfyUI", mib: card.comfyui.held_mib }];
  for (const tenant of card.tenants) {
    for (const model of tenant.models) held.push({ name: model.name, mib: model.vram_mib });
  }
  if (card.other_mib) held.push({ name: "other programs", mib: card.other_mib });
  return {
    at,
    total_mib: card.total_mib,
    free_mib: card.free_mib,
    reserve_mib: card.reserve_mib,
    held: held.filter((one) => one.mib > 0),
    lease: card.lease?.job ?? null,
    debt_mib: card.debt ? card.debt.models.reduce((sum, one) => sum + one.vram_mib, 0) : 0,
  };
}

export function cards(workers) {
  take(workers);
  const missing = workers.flatMap((one) => one.cards ?? []).filter((one) => one.state !== "ready");
  const shown = [...tracks.values()].filter((one) => one.samples.length);
  keyed(by("cards"), shown, (one) => one.card, newCard, changeCard);
  const why = missing.find((one) => one.missing)?.missing;
  write(by("card-none"), shown.length ? "" : noCard(workers, missing, why));
  show(by("card-none"), !shown.length);
}

function noCard(workers, missing, why) {
  if (!workers.length) return "No worker answers, so nobody tells of a card.";
  if (why) return `No card is used: ${why}.`;
  if (missing.length) return "ComfyUI draws without a card.";
  return "No worker has a card: requests go to the engines named beside.";
}

function newCard() {
  return el(
    "div.card",
    {},
    el("p.meta", { "data-is": "name" }),
    el("div.strip", { "data-is": "strip" }),
    el("ul.legend", { "data-is": "legend" }),
    el("p.why", { "data-is": "now" }),
  );
}

function changeCard(item, track) {
  const begin = now() - SPANS_S.at(-1) * 1000;
  while (track.samples.length > 2 && Date.parse(track.samples[1].at) < begin) track.samples.shift();
  const last = track.samples.at(-1);
  const heat = track.now
    ? [
        track.now.utilisation_percent != null && `${track.now.utilisation_percent} % busy`,
        track.now.temperature_c != null && `${track.now.temperature_c} °C`,
        track.now.power_w != null && `${Math.round(track.now.power_w)} W`,
      ]
    : [];
  const words = [track.name, `on ${track.worker}`, gb(last.total_mib), ...heat];
  write(named(item, "name"), words.filter(Boolean).join(" · "));
  const names = allNames(track.samples);
  named(item, "strip").replaceChildren(strip(track.samples, names, last));
  legend(named(item, "legend"), last, names);
  write(named(item, "now"), sentence(track.now));
}

// The largest at the bottom; ComfyUI first and the others last, so that a colour keeps its place.
function allNames(samples) {
  const most = new Map();
  for (const one of samples) {
    for (const held of one.held) most.set(held.name, Math.max(most.get(held.name) ?? 0, held.mib));
  }
  const rank = (name) => (name === "ComfyUI" ? 0 : name === "other programs" ? 2 : 1);
  return [...most.keys()].sort((a, b) => rank(a) - rank(b) || most.get(b) - most.get(a));
}

const tone = (names, name) =>
  name === "other programs" ? "other" : String(names.indexOf(name) % TONES);

function strip(samples, names, last) {
  const end = now();
  const known = (end - Date.parse(samples[0].at)) / 1000;
  const whole = SPANS_S.find((one) => one >= known) ?? SPANS_S.at(-1);
  const x = (at) => WIDTH - ((end - Date.parse(at)) / (whole * 1000)) * WIDTH;
  const y = (mib) => HEIGHT - (mib / last.total_mib) * (HEIGHT - TOP - 6);
  const parts = [
    svg("rect", {
      class: "reserve",
      x: 0,
      width: WIDTH,
      y: y(last.total_mib),
      height: y(last.total_mib - last.reserve_mib) - y(last.total_mib),
    }),
  ];
  for (const piece of unbroken(samples)) {
    const base = piece.map(() => 0);
    for (const name of names) {
      parts.push(area(piece, base, name, { x, y, end, tone: tone(names, name) }));
    }
    parts.push(...debts(piece, { x, y, end }), ...leases(piece, { x, end }));
  }
  for (const at of [WIDTH / 3, (2 * WIDTH) / 3]) {
    parts.push(svg("line", { class: "tick", x1: at, x2: at, y1: TOP, y2: HEIGHT }));
  }
  const drawn = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `The last ${span(whole)}. ${inWords(last)}`,
    },
    ...parts,
  );
  const axis = el(
    "p.axis",
    { "aria-hidden": "true" },
    el("span", {}, `${span(whole)} ago`),
    el("span", {}, span((2 * whole) / 3)),
    el("span", {}, span(whole / 3)),
    el("span", {}, "now"),
  );
  return el("div", {}, drawn, axis);
}

function inWords(last) {
  const held = last.held.map((one) => `${one.name} holds ${gb(one.mib)}`);
  return `${[...held, `${gb(last.free_mib)} free`].join(", ")} of ${gb(last.total_mib)}.`;
}

// Where nobody told anything for a while there is a gap, not a straight line.
function unbroken(samples) {
  const pieces = [[]];
  for (const one of samples) {
    const before = pieces.at(-1).at(-1);
    if (before && Date.parse(one.at) - Date.parse(before.at) > GAP_S * 1000) pieces.push([]);
    pieces.at(-1).push(one);
  }
  return pieces.filter((piece) => piece.length);
}

const until = (piece, place, end) =>
  Math.min(
    end,
    Date.parse(piece[place + 1]?.at ?? piece[place].at) + (piece[place + 1] ? 0 : GAP_S * 500),
  );

function area(piece, base, name, { x, y, end, tone: colour }) {
  const upper = [];
  const lower = [];
  piece.forEach((one, place) => {
    const low = base[place];
    const high = low + (one.held.find((held) => held.name === name)?.mib ?? 0);
    const next = new Date(until(piece, place, end)).toISOString();
    upper.push(`${x(one.at)},${y(high)}`, `${x(next)},${y(high)}`);
    lower.unshift(`${x(next)},${y(low)}`, `${x(one.at)},${y(low)}`);
    base[place] = high;
  });
  const shape = svg("polygon", {
    class: "held",
    "data-tone": colour,
    points: [...upper, ...lower].join(" "),
  });
  shape.append(svg("title", {}, name));
  return shape;
}

// Samples that say the same, one after the other: from where to where, and the first of them.
function stretches(piece, value, end) {
  const found = [];
  piece.forEach((one, place) => {
    const to = until(piece, place, end);
    const last = found.at(-1);
    if (last && last.place === place - 1 && value(last.one) === value(one)) {
      Object.assign(last, { place, to });
    } else found.push({ one, place, from: one.at, to });
  });
  return found.filter(({ one }) => value(one));
}

function box(kind, { from, to }, { x }, y, height) {
  const left = x(from);
  const width = Math.max(1, x(new Date(to).toISOString()) - left);
  return svg("rect", { class: kind, x: left, width, y, height });
}

function leases(piece, scale) {
  return stretches(piece, (one) => one.lease, scale.end).map((stretch) => {
    const bar = box("lease", stretch, scale, 2, 7);
    bar.append(svg("title", {}, stretch.one.lease));
    return bar;
  });
}

function debts(piece, scale) {
  return stretches(piece, (one) => one.debt_mib, scale.end).map((stretch) => {
    const { held, total_mib: total, debt_mib: debt } = stretch.one;
    const used = held.reduce((sum, one) => sum + one.mib, 0);
    const top = scale.y(Math.min(total, used + debt));
    return box("debt", stretch, scale, top, scale.y(used) - top);
  });
}

function legend(place, last, names) {
  const items = names
    .map((name) => ({
      name,
      tone: tone(names, name),
      mib: last.held.find((one) => one.name === name)?.mib ?? 0,
    }))
    .filter((one) => one.mib);
  items.push({ name: "free", tone: "free", mib: last.free_mib });
  items.push({ name: "of it kept free", tone: "reserve", mib: last.reserve_mib });
  if (last.debt_mib) items.push({ name: "owed to Ollama", tone: "debt", mib: last.debt_mib });
  if (last.lease)
    items.push({ name: `leased to ${last.lease.split("#")[0]}`, tone: "lease", mib: null });
  keyed(
    place,
    items,
    (one) => one.name,
    (one) => el("li", {}, el("span.dot"), one.name, " ", el("b", { "data-is": "mib" })),
    (item, one) => {
      item.dataset.tone = one.tone;
      write(named(item, "mib"), one.mib === null ? "" : gb(one.mib));
    },
  );
}

function sentence(card) {
  if (!card) return "";
  const words = [];
  if (card.act)
    words.push(
      `${card.act.kind} ${card.act.models.join(", ")} for ${span(ageS(card.act.begun_at))}`,
    );
  if (card.lease) {
    const { lease } = card;
    words.push(
      `${lease.job.split("#")[0]} has it for ${lease.model}, about ${span(lease.rest_s)} more`,
    );
  }
  if (card.debt) {
    const models = card.debt.models.map((one) => one.name).join(", ");
    words.push(
      `${models} comes back when no job waits, at ${clock(card.debt.due_at)} at the latest`,
    );
  }
  if (card.comfyui?.foreign) words.push(`${card.comfyui.foreign} prompts of people in ComfyUI`);
  return words.length ? `${words.join("; ")}.` : "";
}
