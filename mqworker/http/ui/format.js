// Figures as an operator reads them. Pure.

const GROUPS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const UNITS = [[86_400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
const two = (number) => String(number).padStart(2, "0");

// A format that writes a dash for what is not known.
const known = (format) => (value, ...more) => (value === null || value === undefined || Number.isNaN(value) ? "–" : format(value, ...more));
const rounded = (value, digits) => String(Number(value.toFixed(digits)));

export const count = known((value) => GROUPS.format(value));

// Three digits: 0.042, 3.4, 12.5, 123, 12,345.
export const figure = known((value) => {
  return value >= 100 ? GROUPS.format(value) : rounded(value, value >= 10 ? 1 : value >= 1 ? 2 : 3);
});

export const rate = known((value) => `${figure(value)}/s`);

export const percent = known((share) => `${Math.round(100 * share)} %`);

// A duration: 12 ms, 3.4 s, 2 min 5 s, 3 h 4 min, 5 d 2 h.
export const seconds = known((value) => {
  if (value === 0) return "0";
  if (value < 0.001) return `${figure(value * 1e6)} µs`;
  if (value < 1) return `${figure(value * 1000)} ms`;
  if (value < 59.5) return `${rounded(value, value < 10 ? 1 : 0)} s`;
  const whole = Math.round(value);
  const [size, large, part, small] = UNITS.find(([each]) => whole >= each);
  const rest = Math.floor((whole % size) / part);
  return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
});

// A running clock: 0:07, 12:40, 1:02:03.
export const clock = known((value) => {
  const whole = Math.max(0, Math.floor(value));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
});

export const bytes = known((value) => {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log2(value || 1) / 10)));
  const amount = value / 1024 ** power;
  return `${rounded(amount, power && amount < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
});

// `when`: seconds since 1970, or RFC 3339 text. The time of day; with the date if that is not today's.
export const time = known((when, now = Date.now()) => {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  if (Number.isNaN(date.getTime())) return String(when) || "–";
  const hour = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(two).join("-");
  return date.toDateString() === new Date(now).toDateString() ? hour : `${day} ${hour}`;
});

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
