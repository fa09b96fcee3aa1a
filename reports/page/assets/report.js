"use strict";
(function () {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const config = { displayModeBar: false, responsive: true };
  const drawn = new Set();

  // The specifications name the theme's colours; they are filled in anew when the theme changes.
  function themed(part) {
    const style = getComputedStyle(root);
    const colours = {};
    for (const name of ["ink", "faint", "line", "paper"]) colours[name] = style.getPropertyValue("--" + name).trim();
    const text = JSON.stringify(part).replace(/"@(ink|faint|grid|paper)"/g, function (_, name) {
      return JSON.stringify(colours[name === "grid" ? "line" : name]);
    });
    return JSON.parse(text);
  }

  // One patient's marks in every row, joined by a line while the pointer is on one of them.
  function thread(element, name) {
    const last = element.data.length - 1;
    if (element.data[last].name !== "thread") return;
    const found = [];
    element.data.forEach(function (trace) {
      (trace.customdata || []).forEach(function (held, k) {
        if (held === name) found.push([trace.y[k], trace.x[k]]);
      });
    });
    found.sort(function (a, b) { return b[0] - a[0]; });
    Plotly.restyle(element, { x: [found.map((p) => p[1])], y: [found.map((p) => p[0])] }, [last]);
  }

  function draw(figure) {
    const element = document.getElementById(figure.id);
    const part = themed(figure);
    return Plotly.react(element, part.data, part.layout, config).then(function () {
      element.parentElement.classList.add("drawn");
      if (drawn.has(figure.id)) return;
      drawn.add(figure.id);
      element.on("plotly_hover", function (event) {
        const name = event.points[0].customdata;
        if (name) thread(element, name);
      });
      element.on("plotly_unhover", function () { thread(element, null); });
      element.on("plotly_click", function (event) {
        const name = event.points[0].customdata;
        if (name) location.href = name;
      });
      window.dispatchEvent(new Event("resize")); // it was measured while the static figure was still in its place
    }).catch(function () { element.parentElement.classList.remove("drawn"); });
  }

  // A figure is drawn when it comes near: fifty of them at once would hold up the page.
  const near = new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(figures.find((figure) => figure.id === entry.target.querySelector(".live").id));
    }
  }, { rootMargin: "1000px" });
  for (const figure of figures) near.observe(document.getElementById(figure.id).parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    figures.filter((figure) => drawn.has(figure.id)).forEach(draw);
  });
})();
