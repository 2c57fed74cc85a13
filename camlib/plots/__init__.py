"""Numbers to pictures: colours, panels, figures, pages."""
