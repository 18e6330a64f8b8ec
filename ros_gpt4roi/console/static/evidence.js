// Training records that a region resembles, with their pictures.

/**
 * Shows records, the nearest first, in the form of the page's template "evidence-template".
 *
 * @param {Element} list Where they go; what was there goes.
 * @param {Array} records {file, region, name, description, source, distance, jpeg in base64}.
 */
export function showEvidence(list, records) {
  for (const image of list.querySelectorAll("img[src]")) URL.revokeObjectURL(image.src);
  list.replaceChildren(...records.map((record) => {
    const element = document.getElementById("evidence-template").content.cloneNode(true).firstElementChild;
    const image = element.querySelector("img");
    if (record.jpeg) {
      const bytes = Uint8Array.from(atob(record.jpeg), (character) => character.charCodeAt(0));
      image.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
      image.alt = `Region ${record.region} of ${record.file}`;
    } else {
      image.remove();
    }
    element.querySelector(".text").textContent = [record.name, record.description].filter(Boolean).join(": ") || "nothing is said of it";
    element.querySelector(".about").textContent = `${record.file}, region ${record.region}, ${record.source || "source unknown"},`
      + ` distance ${record.distance.toFixed(3)}`;
    return element;
  }));
}
