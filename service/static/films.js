"use strict";

// Read before the films, for an error event neither waits nor bubbles: a film that fails to load says so.
document.addEventListener("error", (event) => {
  const figure = event.target instanceof HTMLImageElement && event.target.closest("figure");
  if (figure) figure.classList.add("lost");
}, true);
