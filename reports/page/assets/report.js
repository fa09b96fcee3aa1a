"use strict";
(function () {
  // One patient's marks stand out in all rows of a figure while the pointer is on one of them.
  const link = (mark) => mark.getAttribute("href");
  document.addEventListener("pointerover", function (event) {
    const mark = event.target.closest && event.target.closest(".plot a");
    for (const other of document.querySelectorAll(".plot a.same")) other.classList.remove("same");
    if (!mark) return;
    for (const other of mark.closest(".plot").querySelectorAll("a")) {
      other.classList.toggle("same", link(other) === link(mark));
    }
  });
})();
