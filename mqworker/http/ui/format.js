// Figures as an operator reads them. Pure: the time zone and `now` come from the caller or the browser.

const GROUPS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const NONE = "–";

export function count(value) {
  return value === null || value === undefined || Number.isNaN(value) ? NONE : GROUPS.format(value);
}

// Three digits at least, never more than are known: 0.042, 3.4, 123, 12,345.
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 100) return count(value);
  return String(Number(value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3)));
}

export function rate(value) {
  return value === null || value === undefined || Number.isNaN(value) ? NONE : `${figure(value)}/s`;
}

// A duration: 12 ms, 3.4 s, 2 min 5 s, 3 h 4 min, 5 d 2 h.
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value < 0.001) return value === 0 ? "0" : `${figure(value * 1e6)} µs`;
  if (value < 1) return `${figure(value * 1000)} ms`;
  if (value < 59.5) return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} s`;
  const whole = Math.round(value);
  const [large, small, size] =
    whole < 3600 ? ["min", "s", 60] : whole < 86_400 ? ["h", "min", 3600] : ["d", "h", 86_400];
  const rest = Math.floor((whole % size) / (size === 86_400 ? 3600 : size / 60));
  return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

// A running clock: 0:07, 12:40, 1:02:03.
export function clock(value) {
  if (value === null || value === undefined) return NONE;
  const whole = Math.max(0, Math.floor(value));
  const two = (each) => String(each).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export function bytes(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [amount, unit] = [value, 0];
  while (Math.abs(amount) >= 1000 && unit < units.length - 1) [amount, unit] = [amount / 1000, unit + 1];
  return `${unit && Math.abs(amount) < 100 ? Number(amount.toFixed(1)) : Math.round(amount)} ${units[unit]}`;
}

// `when`: seconds since 1970, or RFC 3339 text. The time of day; with the date if that is not today's.
export function time(when, now = Date.now()) {
  if (when === null || when === undefined || when === "") return NONE;
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  if (Number.isNaN(date.getTime())) return String(when);
  const two = (each) => String(each).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const hour = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return date.toDateString() === new Date(now).toDateString() ? hour : `${day} ${hour}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
