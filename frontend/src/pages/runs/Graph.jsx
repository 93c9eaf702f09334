// The stages of a run as a graph: left to right by what feeds what. Everything in it also stands in the table below.
const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [132, 40, 34, 12];

export function Graph({ stages }) {
  const spots = layOut(stages);
  const width = Math.max(...spots.map((spot) => spot.x)) + WIDTH + 2;
  const height = Math.max(...spots.map((spot) => spot.y)) + HEIGHT + 2;
  const byId = new Map(spots.map((spot) => [spot.stage.id, spot]));
  const told = stages.map((stage) => `${stage.id} ${stage.state}`).join(", ");
  return (
    <div class="graph scroll" tabindex="0" role="region" aria-label="Graph of the stages">
      <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`Stages: ${told}`}>
        {spots.flatMap((spot) => spot.stage.parents.map((id) => byId.get(id) && <path key={`${id} ${spot.stage.id}`} class="edge" d={edge(byId.get(id), spot)} />))}
        {spots.map(({ stage, x, y }) => (
          <g key={stage.id} class={`node ${stage.state.replace(" ", "-")}`} transform={`translate(${x} ${y})`}>
            <title>{`${stage.id} (${stage.stage}): ${stage.state}${stage.reason ? `, ${stage.reason}` : ""}`}</title>
            <rect width={WIDTH} height={HEIGHT} rx="7" />
            {stage.progress && ["running", "stopping"].includes(stage.state) && (
              <rect class="bar-fill" y={HEIGHT - 4} width={WIDTH * Math.min(1, stage.progress.done / (stage.progress.total || 1))} height="4" rx="2" />
            )}
            <text x="9" y="17">{shorten(stage.id)}</text>
            <text x="9" y="32" class="what">{stage.state}</text>
          </g>
        ))}
      </svg>
    </div>
  );
}

function layOut(stages) {
  const depth = new Map();
  const known = new Map(stages.map((stage) => [stage.id, stage]));
  const depthOf = (stage) => {
    if (!depth.has(stage.id)) {
      depth.set(stage.id, 0);
      depth.set(stage.id, Math.max(-1, ...stage.parents.filter((id) => known.has(id)).map((id) => depthOf(known.get(id)))) + 1);
    }
    return depth.get(stage.id);
  };
  const filled = [];
  return stages.map((stage) => {
    const column = depthOf(stage);
    const row = filled[column] ?? 0;
    filled[column] = row + 1;
    return { stage, x: column * (WIDTH + GAP_X) + 1, y: row * (HEIGHT + GAP_Y) + 1 };
  });
}

function edge(from, to) {
  const [x0, y0, x1, y1] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const bend = Math.max(18, (x1 - x0) / 2);
  return `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`;
}

const shorten = (text) => (text.length > 17 ? `${text.slice(0, 16)}…` : text);
