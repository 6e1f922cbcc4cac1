"use strict";

// Read before the films, for an error event neither waits nor bubbles: a film that fails to load says so.
document.addEventListener("error", (event) => {
  const film = event.target instanceof HTMLImageElement && event.target.closest(".film, .stage");
  if (film) film.classList.add("lost");
}, true);
