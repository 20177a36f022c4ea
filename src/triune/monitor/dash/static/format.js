// Numbers, times and colours, the same everywhere.

/** Three significant digits; NaN and null as a dash. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, Math.trunc(Math.abs(value)).toString().length) });
}

/** With its sign, for changes. */
export function change(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return (value > 0 ? "+" : value < 0 ? "−" : "±") + number(Math.abs(value));
}

/** A share as a percentage of so many significant digits. */
export function share(value, digits = 3) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : `${number(100 * value, digits)} %`;
}

export function percent(value) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

/** 0.012 s, 12 s, 4 min, 2 h 07 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${number(seconds, 2)} s`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

/** The class of curve number n: colour first, then dashes, so that no two of 32 look alike. */
export function colour(n) {
  return `k${n % 8}` + (n >= 8 ? ` dash${Math.floor(n / 8) % 4}` : "");
}

/** Six significant digits, and NaN and infinities by name, as the server writes them. */
export function exact(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "string" ? value : String(Number(value.toPrecision(6)));
}
