"use strict";

/*
 * The settings of the page are its form controls, and the URL fragment is a copy of them:
 * #softmax&s1=2.5&s2=-1&... The part without "=" names the section last touched.
 */
const settings = (() => {
  const forms = () => [...document.forms];

  /** The settings of one form: numbers where they read as numbers, else text. */
  const read = (form) =>
    Object.fromEntries(
      [...new FormData(form)].map(([name, text]) => [name, isNaN(text) ? text : Number(text)]),
    );

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** Set one control, if the text is a value that it can take. */
  const set = (control, text) => {
    const { type, min, max } = control;
    if (type === "range" || type === "number") {
      if (text !== "" && Number.isFinite(Number(text))) control.value = clamp(text, min, max);
    } else if (control instanceof RadioNodeList || [...control.options].some((o) => o.value === text)) {
      control.value = text;
    }
  };

  /** Split a fragment into the section it names, if any, and the settings it carries. */
  const parse = (fragment) => {
    const parts = fragment.replace(/^#/, "").split("&");
    const section = parts.find((part) => part && !part.includes("="));
    return { section, values: new URLSearchParams(parts.filter((p) => p.includes("=")).join("&")) };
  };

  /** Bring every control to its default and then to what the fragment says. */
  const restore = (fragment) => {
    const { section, values } = parse(fragment);
    if ([...values].length) {
      for (const form of forms()) form.reset();
      for (const [name, text] of values) {
        const control = forms().map((form) => form.elements.namedItem(name)).find(Boolean);
        if (control) set(control, text);
      }
    }
    return section;
  };

  /** The fragment that restores the page as it is. */
  const fragment = (section) =>
    `#${section}&${new URLSearchParams(forms().flatMap((form) => [...new FormData(form)]))}`;

  return { read, restore, fragment, parse, clamp };
})();
