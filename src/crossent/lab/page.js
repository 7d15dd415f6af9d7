"use strict";

/* What every figure shares, and the wiring: controls to figures to the URL fragment. */

/** One drawing function per form: figures[form.dataset.figure](form, settings). */
const figures = {};

/** Write a number where the page has a place for it; the place keeps every digit in its value. */
const show = (root, name, value, text = format(value)) => {
  for (const element of root.querySelectorAll(`[data-show="${name}"]`)) {
    element.textContent = text;
    element.value = value;
  }
};

/** Say in one sentence what the figure shows: its caption, and its text for a screen reader. */
const say = (form, sentence) => {
  form.querySelector(".reading").textContent = sentence;
};

const draw = (form) => {
  for (const control of form.querySelectorAll("input[type=range]")) {
    control.parentNode.querySelector("output").textContent = tidy(Number(control.value));
  }
  figures[form.dataset.figure]?.(form, settings.read(form));
};

const drawAll = () => [...document.forms].forEach(draw);

/** Keep the fragment in step, not more often than browsers allow. */
let waiting;
const remember = (form) => {
  clearTimeout(waiting);
  const section = form.closest("section")?.id ?? settings.section(location.hash);
  waiting = setTimeout(() => history.replaceState(null, "", settings.fragment(section)), 200);
};

const change = (control, value) => {
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
};

/** A pointer on a chart moves the slider whose values its x axis shows. */
const follow = (svg) => {
  const control = svg.closest("form").elements[svg.dataset.follows];
  const move = (event) => {
    if (!event.buttons) return;
    change(control, Chart.of.get(svg).xAt(event.clientX - svg.getBoundingClientRect().left));
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    move(event);
  });
  svg.addEventListener("pointermove", move);
};

/** A button that runs a slider from its start to its end in six seconds, and stops when pressed again. */
const player = (button) => {
  const form = button.closest("form");
  const control = form.elements[button.dataset.play];
  const reading = form.querySelector(".reading");
  let frame = 0;
  const stop = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    button.textContent = "Play";
    reading.removeAttribute("aria-busy");
  };
  const play = () => {
    const [low, high] = [Number(control.min), Number(control.max)];
    const from = Number(control.value) < high ? Number(control.value) : low;
    const began = performance.now();
    const step = (now) => {
      const at = from + ((now - began) / 6000) * (high - low);
      change(control, Math.min(Math.max(at, from), high));
      if (at < high) frame = requestAnimationFrame(step);
      else stop();
    };
    button.textContent = "Pause";
    reading.setAttribute("aria-busy", "true");
    frame = requestAnimationFrame(step);
  };
  button.addEventListener("click", () => (frame ? stop() : play()));
  form.addEventListener("reset", stop);
};

/** A button that brings its form back: the controls change after the click, so it draws after that. */
const resetter = (button) =>
  button.addEventListener("click", () =>
    setTimeout(() => {
      draw(button.form);
      remember(button.form);
    }),
  );

/** A button that sets controls: data-set="rate=0.005&target=0". */
const preset = (button) =>
  button.addEventListener("click", () => {
    for (const [name, value] of new URLSearchParams(button.dataset.set)) {
      change(button.form.elements[name], value);
    }
  });

/** Follow the address, and complete it: a link to a section alone carries no settings. */
const restore = () => {
  if (!location.hash) return drawAll();
  clearTimeout(waiting);
  const section = settings.section(location.hash);
  settings.restore(location.hash);
  drawAll();
  history.replaceState(null, "", settings.fragment(section));
  document.getElementById(section).scrollIntoView();
};

const start = () => {
  for (const form of document.forms) {
    form.addEventListener("input", (event) => {
      if (event.target.name === "seed") drawScores(form);
      draw(form);
      remember(form);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  document.querySelectorAll("[data-follows]").forEach(follow);
  document.querySelectorAll("[data-play]").forEach(player);
  document.querySelectorAll("[data-set]").forEach(preset);
  document.querySelectorAll("[type=reset]").forEach(resetter);
  document.getElementById("draw-scores").addEventListener("click", ({ target }) => {
    const { seed } = target.form.elements;
    change(seed, Number(seed.value) + 1);
  });
  addEventListener("hashchange", restore);
  addEventListener("resize", drawAll);
  restore();
};

// The figures register themselves in the scripts that follow.
addEventListener("DOMContentLoaded", start);
