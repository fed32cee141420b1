// For a person who wants an image: ask for it, watch it being drawn, have it.

import { listen, picture, post, toPicture } from "./api.js";
import { by, count, drop, el, named, say, span, thumb, took, usd, write } from "./draw.js";
import { cancelButton } from "./jobs.js";

const SHOWN = 6;
const AGAIN_MS = 1500;
const TERMINAL = new Set(["completed", "failed", "expired", "cancelled"]);

let done = () => {};

export function begin(hooks) {
  done = hooks.done;
  by("make").addEventListener("submit", submit);
  by("make").elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("make").requestSubmit();
  });
}

export function again(one) {
  const { elements } = by("make");
  elements.prompt.value = one.prompt;
  elements.style.value = one.style ?? "";
  elements.quality.value = one.quality ?? "standard";
  elements.seed.value = one.seed ?? "";
  elements.prompt.focus();
}

function asked(form) {
  const given = Object.fromEntries(new FormData(form));
  const options = { quality: given.quality, count: Number(given.count) || 1, previews: true };
  if (given.style) options.style = given.style;
  if (given.aspect_ratio) options.aspect_ratio = given.aspect_ratio;
  if (given.seed !== "") options.seed = Number(given.seed);
  return {
    type: "image",
    prompt: given.prompt,
    priority: given.priority,
    options,
    ...(given.local_only && { local_only: true }),
  };
}

async function submit(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button[type=submit]");
  form.querySelector(".fault")?.remove();
  button.disabled = true;
  try {
    const body = asked(form);
    const accepted = await post("/generate", body);
    form.elements.prompt.value = "";
    follow({ ...accepted, prompt: body.prompt });
    done();
  } catch (error) {
    const wait = error.retryAfter ? ` Try again in ${span(error.retryAfter)}.` : "";
    form.append(el("p.fault.wide", { role: "alert" }, `${error.message}${wait}`));
  } finally {
    button.disabled = false;
  }
}

function follow(one) {
  const item = el(
    "li",
    { "data-status": "queued" },
    el("div.frame", { "data-is": "frame" }, el("img", { alt: "", "data-is": "preview" })),
    el("p.prompt", {}, one.prompt),
    el("progress", {
      max: 100,
      value: 0,
      "data-is": "bar",
      "aria-label": "Progress of your image",
    }),
    el("p.meta", { "data-is": "words" }, waits(one)),
    cancelButton(one),
  );
  by("mine").prepend(item);
  while (by("mine").children.length > SHOWN) by("mine").lastElementChild.remove();
  watch(item, one, { after: 0 });
}

function waits(one) {
  const place = one.queue_position ? `number ${one.queue_position} in the queue` : "in the queue";
  return one.estimated_wait_seconds
    ? `${place}, starts in about ${span(one.estimated_wait_seconds)}`
    : place;
}

// A line that breaks is opened again, behind the last link that was heard.
async function watch(item, one, seen) {
  const values = {
    requester: one.requester,
    wait: 10,
    previews: 1,
    ...(seen.after && { after: seen.after }),
  };
  seen.tries = (seen.tries ?? 0) + 1;
  const wait = AGAIN_MS * Math.min(seen.tries, 10);
  const later = () => setTimeout(() => item.isConnected && watch(item, one, seen), wait);
  try {
    await listen(`/${encodeURIComponent(one.request_id)}`, values, {
      heard: (frame) => heard(item, one, frame, seen),
      seen: (_about, blob) => preview(item, blob),
      ended: () => seen.over || later(),
    });
  } catch {
    later();
  }
}

function preview(item, blob) {
  const image = named(item, "preview");
  if (!image) return;
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  drop(old);
}

function heard(item, one, frame, seen) {
  if (frame.n && frame.kind !== "progress") seen.after = frame.n;
  item.dataset.status = frame.status;
  if (frame.kind === "queued")
    write(named(item, "words"), waits({ ...one, queue_position: frame.position, ...frame }));
  else {
    named(item, "bar").value = frame.progress_percent;
    write(
      named(item, "words"),
      frame.error ? `${frame.message}: ${frame.error.message}` : frame.message,
    );
  }
  if (TERMINAL.has(frame.kind)) {
    seen.over = true;
    finish(item, frame);
  }
}

function finish(item, frame) {
  item.querySelector(".cancel")?.remove();
  named(item, "bar").remove();
  if (frame.kind !== "completed") {
    say(`Your image was not made: ${frame.message}`);
    return;
  }
  const pictures = frame.outputs.length ? frame.outputs : [frame.output].filter(Boolean);
  const shown = pictures.map((one) => {
    const image = thumb(picture(one.url), 320, "Your image, open it in full");
    return toPicture(el("a", { target: "_blank", rel: "noopener" }, image), one.url);
  });
  named(item, "frame").replaceChildren(...shown);
  item.dataset.count = pictures.length;
  const cost = frame.cost_usd ? `, ${usd(frame.cost_usd)}` : "";
  write(
    named(item, "words"),
    `${count(pictures.length, "picture")} by ${frame.model_used}` +
      ` in ${took(frame.generation_time_seconds)}${cost}, seed ${frame.seed}`,
  );
  say("Your image is ready.");
  done();
}
