// Where the gateway is, with which key it is asked, and what it answers. Knows nothing of the page.

const TOP = location.pathname.replace(/\/(api\/multimodal\/dashboard|multimodal)\/[^/]*$/, "");
const API = `${TOP}/api/multimodal`;
const KEY = "mmg-key";
const PATIENCE_MS = 12000;

export class Refusal extends Error {
  // status 0: nobody answered.
  constructor(status, text, code = "", retryAfter = 0) {
    super(text);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export const isRelayed = location.pathname.includes("/api/multimodal/dashboard/");
export const root = (path) => `${TOP}/${path}`;
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function keep(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

export async function ask(method, path, body) {
  const given = body === undefined ? {} : { body: JSON.stringify(body) };
  const typed = method === "POST" ? { "Content-Type": "application/json" } : {};
  let answer;
  try {
    answer = await fetch(`${API}${path}`, {
      method,
      ...given,
      headers: headers(typed),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    throw new Refusal(0, `The gateway does not answer (${error.name}).`);
  }
  if (answer.status === 204) return null;
  let told = null;
  try {
    told = await answer.json();
  } catch {
    throw new Refusal(answer.status, `The gateway answered ${answer.status} without words.`);
  }
  if (answer.ok) return told;
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  throw new Refusal(answer.status, told.detail || answer.statusText, told.code, wait);
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);

export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(given).toString();
  return text ? `?${text}` : "";
}

export function request(one, end = "", more = {}) {
  const id = encodeURIComponent(one.request_id);
  return `/requests/${id}${end}${query({ requester: one.requester, ...more })}`;
}

async function socketAddress(path, values) {
  let ticket = {};
  if (hasKey()) ticket = { ticket: (await post("/ws-ticket")).ticket };
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}${TOP}/ws/multimodal${path}${query({ ...values, ...ticket })}`;
}

// Hears text frames as objects and previews as blobs, until it is closed; `ended(code)` then.
export async function listen(path, values, { opened, heard, seen, ended }) {
  const socket = new WebSocket(await socketAddress(path, values));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => opened?.();
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") heard(JSON.parse(data));
    else preview(data, seen);
  };
  socket.onclose = ({ code }) => ended?.(code);
  return socket;
}

function preview(data, seen) {
  const size = new DataView(data).getUint32(0);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  seen?.(about, new Blob([new Uint8Array(data, 4 + size)], { type: "image/jpeg" }));
}

// Pictures cannot send a key of their own: with one, they are fetched and shown from memory.
export async function picture(address) {
  const path = new URL(address, location.href).pathname;
  const place = path.startsWith(TOP) ? path : `${TOP}${path}`;
  if (!hasKey()) return place;
  const answer = await fetch(place, { headers: headers() });
  if (!answer.ok) throw new Refusal(answer.status, "no picture");
  return URL.createObjectURL(await answer.blob());
}

// A link to a picture, in full: with a key it leads into this page's memory, too.
export function toPicture(link, address) {
  picture(address).then(
    (place) => (link.href = place),
    () => link.removeAttribute("href"),
  );
  return link;
}
