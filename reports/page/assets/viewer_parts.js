"use strict";
// What the viewer draws with, apart from its state.
const viewerParts = (function () {
  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function draw(tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    return element;
  }

  // A fusion is put together by adding light, so that no pixel is read back: some browsers falsify what is read.
  function compose(context, width, height, channels, images) {
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    if (channels.length === 1) {
      context.drawImage(images[channels[0][0]], 0, 0, width, height);
      return;
    }
    const part = document.createElement("canvas");
    part.width = width;
    part.height = height;
    const layer = part.getContext("2d");
    channels.forEach(function (names, k) {
      layer.globalCompositeOperation = "source-over";
      names.forEach(function (name, n) {
        layer.globalAlpha = 1 / (n + 1);  // the mean of all that were drawn so far
        layer.drawImage(images[name], 0, 0, width, height);
      });
      layer.globalAlpha = 1;
      layer.globalCompositeOperation = "multiply";
      layer.fillStyle = ["#f00", "#0f0", "#00f"][k];
      layer.fillRect(0, 0, width, height);
      context.globalCompositeOperation = "lighter";
      context.drawImage(part, 0, 0);
    });
  }

  return { make, draw, compose };
})();
