// The one dialog of the page: a question with its consequence, or something shown large.

import { by, el, write } from "./draw.js";

export function open(title, ...inner) {
  const dialog = by("dialog");
  const close = el("button.quiet.close", { type: "button", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => dialog.close("closed"));
  dialog.replaceChildren(
    el("div.head", {}, el("h2", { id: "dialog-title" }, title), close),
    ...inner,
  );
  if (!dialog.open) dialog.showModal();
  return dialog;
}

// Asks, does `act` and says what went wrong if it did; true once it was done.
export function confirm(title, text, word, act, fields = null) {
  const fault = el("p.fault", { role: "alert" });
  const yes = el("button.main", { type: "submit" }, word);
  const no = el("button", { type: "button" }, "Keep as it is");
  const form = el("form", {}, el("p", {}, text), fields, fault, el("div.actions", {}, yes, no));
  const dialog = open(title, form);
  (fields?.querySelector("input, select") ?? yes).focus();
  return new Promise((resolve) => {
    let done = false;
    no.addEventListener("click", () => dialog.close("closed"));
    dialog.addEventListener("close", () => resolve(done), { once: true });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      yes.disabled = true;
      write(fault, "");
      try {
        await act(new FormData(form));
        done = true;
        dialog.close("done");
      } catch (error) {
        write(fault, error.message);
        yes.disabled = false;
      }
    });
  });
}
