// Elements made and found. Text given here stays text: no name of a study is ever read as markup.

export const byId = (id) => document.getElementById(id);

/** Returns a similarity in as many decimals as this page is told. */
export const similarityWords = (value) => Number(value).toFixed(Number(byId("main").dataset.decimals));

/** Returns a new element with properties or attributes, and children that are nodes, texts or null. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(made.dataset, value);
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Returns a line that says what failed; where it may pass, with a button that tries `again`. */
export function failure(error, again = null, properties = { className: "refused", role: "alert" }) {
  const line = element("p", properties, error.message);
  if (!error.passing || !again) return line;
  const button = element("button", { type: "button", className: "again" }, "Try again");
  button.addEventListener("click", () => {
    button.disabled = true;
    again();
  });
  line.append(" ", button);
  return line;
}

const SVG = "http://www.w3.org/2000/svg";

/** Returns a new SVG element with attributes. */
export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Sets which of a group's buttons is pressed. */
export function press(group, name, value) {
  for (const button of group.querySelectorAll(`[data-${name}]`)) {
    button.setAttribute("aria-pressed", String(button.dataset[name] === value));
  }
}
