// Code and tables that scroll sideways can be reached by the keyboard; others cost no stop.
function markScrolling() {
  document.querySelectorAll("main pre, main .sd-table, main .cell-output-display").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", box.tagName === "PRE" ? "Code" : "Table or picture");
    } else {
      ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
    }
  });
}
window.addEventListener("load", markScrolling);
window.addEventListener("resize", markScrolling);
// The sections of the sidebar open with the keyboard too.
document.addEventListener("keydown", (event) => {
  const opens = event.target.matches("a[role=button]");
  if (opens && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    event.target.click();
  }
});
