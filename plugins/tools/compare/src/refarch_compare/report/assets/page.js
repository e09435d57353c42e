// Put together: each part is set up once, and follows the filter from then on.
document.body.append(tip);
document.documentElement.classList.add("scripted");
filters();
resultsTable();
tradeoff();
curvesPlot();
changed();
addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target?.closest("details");
  if (!details) return;
  details.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
openTarget();
