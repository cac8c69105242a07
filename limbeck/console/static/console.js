"use strict";
// What several pages need: forms that ask before they do something, times as ago, and links for keys.

// A form with data-ask says what will happen and waits for a yes.
document.addEventListener("submit", (event) => {
  const text = event.target.dataset.ask;
  if (text && !window.confirm(text)) event.preventDefault();
});

// A button that was pressed sends its form once.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.dataset.again !== undefined) return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
