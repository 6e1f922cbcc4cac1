"use strict";

const TRIES = 3;

// Read before the films, for their events neither wait nor bubble: a film that fails to load says so, and is asked for
// again, for the service may have had too many in the making.
document.addEventListener("error", ({ target }) => {
  const film = target instanceof HTMLImageElement && target.closest(".film, .stage");
  if (!film) return;
  film.classList.add("lost");
  const tried = Number(target.dataset.tried ?? 0);
  if (tried === TRIES || !target.isConnected) return;
  target.dataset.tried = tried + 1;
  const { src } = target;
  setTimeout(() => { if (target.src === src) target.src = src; }, (1 + Math.random()) * 1000 * 2 ** tried);
}, true);

document.addEventListener("load", ({ target }) => {
  if (!(target instanceof HTMLImageElement)) return;
  delete target.dataset.tried;
  target.closest(".film, .stage")?.classList.remove("lost");
  target.parentElement.querySelector(".place")?.setAttribute("viewBox", `0 0 ${target.naturalWidth} ${target.naturalHeight}`);
}, true);
