// What keeps the page from being readable, as a list of complaints. Run by test_compare_report_browser.py.
const complaints = [];
const seen = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.getClientRects().length);
const words = (node) => `${node.tagName}.${node.className.baseVal ?? node.className} ${node.textContent.slice(0, 30)}`;

// Nothing sticks out of the page.
if (document.documentElement.scrollWidth > innerWidth) complaints.push(`the page is ${document.documentElement.scrollWidth} wide`);
for (const node of seen("main > section > *")) {
  if (node.getBoundingClientRect().right > innerWidth + 1) complaints.push(`${words(node)} sticks out of the page`);
}

// Text stands out from what is behind it as WCAG asks (4.5), and is not tiny.
const luminance = (colour) =>
  colour.match(/[\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + [0.2126, 0.7152, 0.0722][i] * v, 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/rgba\(.*, 0\)|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
for (const node of seen("h1, h2, h3, p, li, a, td, th, small, span:not(:empty), summary, label, button, pre, svg text")) {
  const style = getComputedStyle(node);
  const [a, b] = [luminance(node.closest("svg") ? style.fill : style.color), luminance(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) complaints.push(`${words(node)} is faint: ${ratio.toFixed(2)}`);
  if (parseFloat(style.fontSize) < 11.5) complaints.push(`${words(node)} is small: ${style.fontSize}`);
}

// In the plots, texts lie inside and not on each other.
for (const plot of seen(".plot")) {
  const frame = plot.getBoundingClientRect();
  const boxes = [...plot.querySelectorAll("svg text")].map((node) => [node.textContent, node.getBoundingClientRect()]);
  boxes.forEach(([text, a], i) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1) complaints.push(`${plot.id}: ${text} sticks out`);
    for (const [other, b] of boxes.slice(0, i)) {
      const apart = a.left >= b.right - 2 || b.left >= a.right - 2 || a.top >= b.bottom - 3 || b.top >= a.bottom - 3;
      if (!apart) complaints.push(`${plot.id}: ${text} on ${other}`);
    }
  });
}
for (const image of seen("img")) {
  if (!image.complete || image.naturalWidth < 300) complaints.push(`${image.alt} is not drawn`);
}
return complaints;
