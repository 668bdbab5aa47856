import type { JSX } from "preact";

// Strokes on a grid of 24.
const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500",
  send: "M12 20V5M5.500 11.500 12 5l6.500 6.500",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.500l4.500 4.500L19 7.500",
  redo: "M20 11a8 8 0 1 0-2.300 6.300M20 4v7h-7",
  pencil: "M4 20l1-4L16.500 4.500a2.100 2.100 0 0 1 3 3L8 19z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  sliders: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4M4 12h3",
  close: "M6 6l12 12M18 6L6 18",
  down: "M12 5v14M6 13l6 6 6-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600 19 19M5 19l1.400-1.400M17.600 6.400 19 5",
  moon: "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z",
  screen: "M3 5h18v11H3zM9 20h6M12 16v4",
  tool: "M14.500 6a4.500 4.500 0 0 0-5.800 5.800L3.500 17l3.500 3.500 5.200-5.200A4.500 4.500 0 0 0 18 9.500l-2.700 2.700-3.500-3.500z",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9h.01",
  thought: "M9 18h6M10 21h4M12 3a6 6 0 0 0-3.500 10.900V15.500h7v-1.600A6 6 0 0 0 12 3z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Flame({ alight = false }: { alight?: boolean }): JSX.Element {
  return (
    <svg class={alight ? "flame alight" : "flame"} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path
        class="flame-outer"
        d="M17.600 2c1 5-1.600 7.300-4.300 10.200C10.400 15.200 7 18.300 7 22.300 7 27 11 30 16 30s9-3.200 9-8c0-3.600-1.700-6.200-3.300-8.100-.2 1.900-.9 3.200-2.300 4.100C20.300 11.800 20.500 6 17.600 2z"
      />
      <path
        class="flame-inner"
        d="M16.200 17.500c.2 2.300-1 3.400-2.200 4.600-.9 1-1.700 2-1.700 3.300 0 2.100 1.700 3.600 3.800 3.600s3.800-1.500 3.800-3.700c0-1.300-.5-2.400-1.200-3.300-.3.9-.8 1.400-1.500 1.700.4-2.300.2-4.500-1-6.200z"
      />
    </svg>
  );
}
