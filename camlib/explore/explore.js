// A click on a map: mark the place, and ask for the value there. Gradio gives `element` and `trigger`.
element.addEventListener("click", event => {
  const picture = event.target.closest("img[data-kind]");
  if (!picture) return;
  const box = picture.getBoundingClientRect(), {shown, layer, kind, class: name} = picture.dataset;
  const mark = document.getElementById("place") ?? document.createElement("div");
  mark.id = "place";
  mark.style.left = `${event.pageX}px`; mark.style.top = `${event.pageY}px`;
  document.body.append(mark);
  const across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
  trigger("click", {shown: +shown, layer: +layer, kind, name, across, down});
});
new MutationObserver(() => document.getElementById("place")?.remove()).observe(element, {childList: true, subtree: true});
// What is typed into a list that takes other words replaces what stands in it
document.addEventListener("click", event => event.target.matches("#settings input[role=combobox]") && event.target.select());
