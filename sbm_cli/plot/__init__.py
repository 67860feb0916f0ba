"""Charts as SVG, in one style that light and dark pages can show."""
