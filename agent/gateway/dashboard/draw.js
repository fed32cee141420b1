// Elements, words for times, sizes and money, and lists that keep what did not change.
// Whatever comes from a request is text here, never HTML.

export const by = (id) => document.getElementById(id);

export function el(name, given = {}, ...inner) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inner.filter((one) => one !== null && one !== undefined && one !== ""));
  return made;
}

export function svg(name, given = {}, ...inner) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  made.append(...inner);
  return made;
}

// Changes only what differs: a screen reader is not told twice, a selection stays.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

// Keeps one child for each key, in order: focus and open previews outlive a refresh.
export function keyed(parent, items, key, make, change) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = known.get(name);
    known.delete(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    change?.(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

export const named = (parent, name) => parent.querySelector(`[data-is="${name}"]`);

const DAY_S = 86400;

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600)
    return s < 600 && s % 60
      ? `${Math.floor(s / 60)} min ${s % 60} s`
      : `${Math.round(s / 60)} min`;
  if (s < DAY_S) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / DAY_S)} days`;
}

// How long something took: short ones to a tenth.
export const took = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds));

// A page of another machine has another clock: the gateway's is what counts.
let offsetMs = 0;
export const setClock = (at) => {
  offsetMs = Date.parse(at) - Date.now();
};
export const now = () => Date.now() + offsetMs;
export const ageS = (at) => (now() - Date.parse(at)) / 1000;

export function clock(at) {
  const then = new Date(at);
  const time = then.toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  });
  if (Math.abs(ageS(at)) < DAY_S / 2) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

export const gb = (mib) => `${(mib / 1024).toFixed(1)} GB`;

export function usd(value) {
  if (!value) return "$0";
  return `$${value < 1 ? value.toFixed(3).replace(/0$/, "") : value.toFixed(2)}`;
}

export const count = (number, what) =>
  `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

export const percent = (value) => `${Number(value.toFixed(1))} %`;

const BYTES = ["B", "kB", "MB", "GB"];

export function bytes(size) {
  const power = Math.min(3, Math.floor(Math.log10(Math.max(1, size)) / 3));
  return `${(size / 1000 ** power).toFixed(power ? 1 : 0)} ${BYTES[power]}`;
}

export function band(seconds, early, late) {
  if (seconds === null || seconds === undefined) return "no end in sight";
  const about = seconds < 1 ? "now" : `in ${span(seconds)}`;
  if (early === null || early === undefined || late === null || Math.round(late - early) < 2)
    return about;
  return `${about} (${span(early)} to ${span(late)})`;
}

let spoken = "";
export function say(text) {
  if (text === spoken) return;
  spoken = text;
  write(by("say"), text);
}

// A thumbnail that cannot be had is not there: no broken picture on the page.
export function thumb(load, size, words = "") {
  const made = el("img", {
    alt: words,
    width: size,
    height: size,
    loading: "lazy",
    decoding: "async",
  });
  made.addEventListener("error", () => made.classList.add("gone"), { once: true });
  Promise.resolve(load).then(
    (address) => (made.src = address),
    () => made.classList.add("gone"),
  );
  return made;
}

// An address in memory is let go a little later: a picture may still be reading from it.
export function drop(address) {
  if (address?.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(address), 5000);
}
