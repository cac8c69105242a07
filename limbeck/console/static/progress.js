"use strict";
// Follows the command that runs a stage: what it says replaces what the page said when it was loaded. A page in the
// background follows nothing: browsers allow few open connections to one host.

const region = document.getElementById("progress");
let source = null;

const show = (event) => {
  const now = JSON.parse(event.data);
  for (const part of region.querySelectorAll("[data-of]")) part.textContent = now[part.dataset.of];
  const bar = region.querySelector("progress");
  if (now.share === null) bar.removeAttribute("value"); else bar.value = now.share;
};

const follow = () => {
  if (document.hidden) {
    if (source) source.close();
    source = null;
  } else if (!source) {
    source = new EventSource(region.dataset.events);
    source.addEventListener("message", show);
    source.addEventListener("end", () => { source.close(); window.location.reload(); });
  }
};

if (region && "EventSource" in window) {
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => { if (source) source.close(); source = null; });
  follow();
}
