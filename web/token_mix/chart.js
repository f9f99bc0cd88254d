// A mix as a picture: bars, or words as large as their coefficients.

const WIDTH = 900;
const FONT = "Inter, system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif";
const MOST = { bars: 24, cloud: 60 };

export function drawChart(canvas, kind, texts, values) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const colours = { paper: colour("--bg-color", "#202020"), ink: colour("--fg-color", "#eeeeee"), bar: colour("--p-primary-color", "#3b82f6") };
  const words = texts.slice(0, MOST[kind]).map((text, i) => ({ text, value: values[i] }));
  (kind === "bars" ? bars : cloud)(canvas, words, colours);
}

/** Sharp on any screen; gives the context, in CSS pixels. */
function begin(canvas, height, { paper }) {
  const ratio = Math.max(2, devicePixelRatio);
  canvas.width = WIDTH * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${WIDTH}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = paper;
  context.fillRect(0, 0, WIDTH, height);
  context.textBaseline = "middle";
  return context;
}

function bars(canvas, words, colours) {
  const [line, name, number] = [30, 220, 90];
  const context = begin(canvas, line * words.length + 24, colours);
  const low = Math.min(0, ...words.map((word) => word.value));
  const high = Math.max(0, ...words.map((word) => word.value)) || 1;
  const place = (value) => name + 12 + ((value - low) / (high - low)) * (WIDTH - name - number - 24);
  words.forEach(({ text, value }, i) => {
    const y = 12 + line * (i + 0.5);
    context.font = `15px ${FONT}`;
    context.fillStyle = colours.ink;
    context.textAlign = "right";
    context.fillText(text, name, y, name - 12);
    context.fillStyle = colours.bar;
    context.fillRect(Math.min(place(0), place(value)), y - 9, Math.abs(place(value) - place(0)), 18);
    context.fillStyle = colours.ink;
    context.textAlign = "left";
    context.fillText(String(Number(value.toPrecision(3))), Math.max(place(0), place(value)) + 8, y);
  });
}

/** Lines of words from the middle outwards, the largest in the middle. */
function cloud(canvas, words, colours) {
  const most = Math.max(...words.map((word) => Math.abs(word.value))) || 1;
  const measure = canvas.getContext("2d");
  const lines = [];
  for (const { text, value } of words) {
    const size = 14 + 58 * Math.sqrt(Math.abs(value) / most);
    measure.font = `600 ${size}px ${FONT}`;
    const width = measure.measureText(text).width + size * 0.4;
    let line = lines.find((other) => other.width + width < WIDTH - 40 && other.size >= size * 0.7);
    if (!line) lines.push((line = { words: [], width: 0, size }));
    line.words.splice(line.words.length % 2 ? 0 : line.words.length, 0, { text, size, width, strong: Math.abs(value) / most });
    line.width += width;
  }
  const ordered = [];
  lines.forEach((line, i) => (i % 2 ? ordered.unshift(line) : ordered.push(line)));
  const context = begin(canvas, ordered.reduce((sum, line) => sum + line.size * 1.15, 40), colours);
  let y = 20;
  for (const line of ordered) {
    let x = (WIDTH - line.width) / 2;
    y += line.size * 0.575;
    for (const { text, size, width, strong } of line.words) {
      context.font = `600 ${size}px ${FONT}`;
      context.textAlign = "center";
      context.globalAlpha = 0.55 + 0.45 * strong;
      context.fillStyle = strong > 0.5 ? colours.bar : colours.ink;
      context.fillText(text, x + width / 2, y);
      x += width;
    }
    y += line.size * 0.575;
  }
  context.globalAlpha = 1;
}
