"use strict";
(function () {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const config = { displayModeBar: false, responsive: true };

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

  function draw() {
    return Promise.all(figures.map(function (figure) {
      const part = themed(figure);
      return Plotly.react(figure.id, part.data, part.layout, config);
    }));
  }

  root.classList.add("interactive");
  draw().catch(function () { root.classList.remove("interactive"); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
