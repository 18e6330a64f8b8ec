// Where the texts of regions go on a picture: each at its box, none on another.

const MOST_COVERED = 0.25; // of a box that a text lies on

/**
 * Finds a place for the text of every region, as the annotated image has them: along the sides of its box, on no other
 * text and on little of any box. Where there is none, it is the id alone, and where that has no place either, nothing:
 * the list of regions has all of them.
 *
 * @param {Array} regions {id, text, box: [x1, y1, x2, y2]}; the first ones choose first.
 * @param {function} widthOf Gives the width of a text with its border.
 * @param {number} high Height of a text with its border.
 * @param {[number, number]} picture Its width and height.
 * @returns {Array} {region, text, place: [x1, y1, x2, y2]}
 */
export function arrange(regions, widthOf, high, picture) {
  const boxes = regions.map(({ box: [x1, y1, x2, y2] }) => [clip(x1, picture[0]), clip(y1, picture[1]),
    clip(x2, picture[0]), clip(y2, picture[1])]);
  const labels = [];
  for (const [index, region] of regions.entries()) {
    const short = region.text ? region.text.split(/[.;]/)[0].slice(0, 60) : "";
    const texts = short ? [`${region.id}: ${short}`, region.id] : [region.id];
    for (const text of texts) {
      const size = [Math.min(widthOf(text), picture[0]), high];
      const place = freePlace(boxes, index, size, picture, labels, text === region.id);
      if (!place) continue;
      labels.push({ region, text, place });
      break;
    }
  }
  return labels;
}

function freePlace(boxes, own, [wide, high], [width, height], labels, covering) {
  let best = null;
  let least = Infinity;
  for (const [x, y] of corners(boxes[own], wide, high, width, height)) {
    const place = [x, y, x + wide, y + high];
    if (x < 0 || y < 0 || place[2] > width || place[3] > height) continue;
    if (labels.some((label) => shared(place, label.place) > 0)) continue;
    let covered = 0;
    let fits = true;
    for (const [index, box] of boxes.entries()) {
      const area = (box[2] - box[0]) * (box[3] - box[1]);
      const part = area > 1 ? shared(place, box) / area : 0; // a point has no area to cover
      fits &&= covering || part <= MOST_COVERED;
      covered += index === own ? part / 2 : part;
    }
    if (fits && covered < least) [best, least] = [place, covered];
  }
  return best;
}

// Upper left corners along the sides of a box, first the usual ones.
function* corners([x1, y1, x2, y2], wide, high, width, height) {
  const along = (low, high, step, most) => {
    const places = [low, high - step];
    for (let place = low + step; place < high; place += step) places.push(place);
    return places.map((place) => clip(place, most - step));
  };
  const lefts = along(x1, x2, wide, width);
  const tops = along(y1, y2, high, height);
  for (const top of [y1 - high, y2, y1, y2 - high]) for (const left of lefts) yield [left, top];
  for (const left of [x2, x1 - wide, x1, x2 - wide]) for (const top of tops) yield [left, top];
}

function shared(one, other) {
  return Math.max(0, Math.min(one[2], other[2]) - Math.max(one[0], other[0]))
    * Math.max(0, Math.min(one[3], other[3]) - Math.max(one[1], other[1]));
}

function clip(value, most) {
  return Math.min(Math.max(value, 0), most);
}
