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

  /** Set one control, if the text is a value that it can take. */
  const set = (control, text) => {
    const { type, min, max } = control;
    if (type === "range" || type === "number") {
      if (text !== "" && Number.isFinite(Number(text))) control.value = clamp(text, min, max);
    } else if (control instanceof RadioNodeList || [...control.options].some((o) => o.value === text)) {
      control.value = text;
    }
  };

  const parts = (fragment) => fragment.replace(/^#/, "").split("&");

  /** The section that a fragment names, or the first. */
  const section = (fragment) =>
    parts(fragment).find((part) => document.querySelector(`section[id="${CSS.escape(part)}"]`)) ??
    document.querySelector("section").id;

  /** Bring every control to its default and then to what the fragment says, if it says anything. */
  const restore = (fragment) => {
    const values = new URLSearchParams(parts(fragment).filter((part) => part.includes("=")).join("&"));
    if (!values.size) return;
    for (const form of forms()) form.reset();
    for (const [name, text] of values) {
      const control = forms().map((form) => form.elements.namedItem(name)).find(Boolean);
      if (control) set(control, text);
    }
  };

  /** The fragment that restores the page as it is, at this section. */
  const fragment = (section) =>
    `#${section}&${new URLSearchParams(forms().flatMap((form) => [...new FormData(form)]))}`;

  return { read, restore, section, fragment };
})();
