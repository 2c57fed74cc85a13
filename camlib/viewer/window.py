"""The viewer's window: sliders, keys and the mouse."""

import ctypes
import itertools
import os
import signal
import sys
from pathlib import Path

import matplotlib
from matplotlib.backend_bases import NavigationToolbar2
from matplotlib.figure import Figure
from matplotlib.widgets import Slider

from camlib.console import ENDING_SIGNALS, UserError, first_line
from camlib.files import write_whole
from camlib.photos import name_without_suffix
from camlib.plots.text import PER_INCH, length
from camlib.viewer.album import SCORED, Album
from camlib.viewer.artists import Label
from camlib.viewer.figure import Viewer
from camlib.viewer.layout import EDGE

KEYS = """\
left, right          previous, next photo
page up, page down   ten photos back, on
home, end            first, last photo
up, down             previous, next class over the photo
/                    type a class's name; enter takes it
m                    next kind of map over the photo
click on a map       that map over the photo
p                    back to the class predicted
t                    outline of the truth: on, off
f                    all photos, wrong ones, those
                     predicted as the class over the photo
o                    order: name, most or least confident,
                     score of the class over the photo
s                    save the picture in this folder
h                    this list
q                    close the window"""
SAVED_DPI = 150
# Variables by which Qt draws in another way, or with parts from elsewhere
OTHER_QT = ("WAYLAND_DISPLAY", "QT_QPA_PLATFORM", "QT_QPA_PLATFORM_PLUGIN_PATH", "QT_PLUGIN_PATH")
ROW, SLIDER = 24, 10  # pixels: height of the row of controls, and of a slider in it
FOOTER = EDGE + ROW
SIGNALS_HEEDED = 200  # milliseconds from one look at them to the next


def freed_keys():
    """Matplotlib's settings of keys without those of a single key, which mean other things here."""
    return {
        name: [key for key in keys if "+" in key or "MouseButton" in key]
        for name, keys in matplotlib.rcParams.items()
        if name.startswith("keymap.")
    }


def prepare_toolkit():
    """Set Matplotlib up for a window, and refuse a Qt that would end the process.

    Raises:
        UserError: see `check_qt`.
    """
    if "cv2" in os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH", ""):
        del os.environ["QT_QPA_PLATFORM_PLUGIN_PATH"]  # set by OpenCV for a Qt of its own; another Qt would abort
    matplotlib.rcParams.update(freed_keys())
    check_qt()


def check_qt():
    """Refuse a Qt that lacks libraries of the system's: it would end the process in the middle, with a core dump.

    Only where Qt is to draw on an X display with its own parts.

    Raises:
        UserError: the part of Qt that does so does not load.
    """
    on_x = sys.platform == "linux" and os.environ.get("DISPLAY") and not any(map(os.environ.get, OTHER_QT))
    if not on_x or matplotlib.get_backend().lower() != "qtagg":
        return
    from matplotlib.backends.qt_compat import QtCore

    qt = QtCore.QLibraryInfo
    plugins = qt.path(qt.LibraryPath.PluginsPath) if hasattr(qt, "path") else qt.location(qt.PluginsPath)  # Qt 5
    try:
        ctypes.CDLL(str(Path(plugins) / "platforms" / "libqxcb.so"))
    except OSError as error:
        raise UserError(
            f"no window can be opened: Qt needs a library that this system lacks ({first_line(error)}); expected it "
            "installed, or Tk instead: apt install python3-tk and MPLBACKEND=TkAgg"
        ) from error


def drop_idle_buttons():
    """Leave out the toolbar's buttons that change nothing here: what they set, the figure places itself."""
    for toolbar in NavigationToolbar2.__subclasses__():
        toolbar.toolitems = [item for item in toolbar.toolitems if item[0] not in ("Subplots", "Customize")]


class Controls:
    """Sliders, keys and mouse of a figure in a window.

    Args:
        figure: matplotlib Figure.
        photos: list of SavedPhoto.
        index: int, the photo to begin with.
        settings: of the Viewer.
    """

    def __init__(self, figure, photos, index=0, **settings):
        self.album = Album(photos, index)
        self.viewer = Viewer(figure, self.album, footer=FOOTER, **settings)
        self.asked = []  # signals that asked the process to end
        self.typed = None  # letters of a class's name while it is typed
        most = max(len(photos), 2)
        self.photo_slider = self.new_slider(1, most, valstep=1, valinit=index + 1)
        self.opacity_slider = self.new_slider(0, 1, valinit=self.viewer.style.opacity)
        # what stands behind the one slider and behind the other
        self.words = [figure.add_artist(Label(fontsize=9, va="center", transform=figure.transFigure)) for _ in range(2)]
        self.help = figure.text(
            0.5, 0.5, KEYS, ha="center", va="center", multialignment="left", family="monospace", visible=False,
            zorder=10, fontsize=8, bbox={"facecolor": "white", "boxstyle": "round,pad=1"},
        )  # fmt: skip
        self.place()
        self.draw()
        self.photo_slider.on_changed(lambda number: self.go_to(int(number) - 1))
        self.opacity_slider.on_changed(self.set_opacity)
        events = {
            "key_press_event": self.on_key,
            "button_press_event": self.on_click,
            "resize_event": self.on_resize,
            "draw_event": self.album.read_ahead,
            "close_event": lambda _: self.album.pool.shutdown(wait=False, cancel_futures=True),  # after what it reads
        }
        for event, meet in events.items():
            figure.canvas.mpl_connect(event, meet)

    def new_slider(self, least, most, **settings):
        """A Slider without its own texts, which take longer to draw than ours."""
        slider = Slider(self.viewer.figure.add_axes((0, 0, 0.1, 0.1)), "", least, most, **settings)
        slider.label.set_visible(False)
        slider.valtext.set_visible(False)
        return slider

    def heed_signals(self):
        """At Ctrl-C, SIGTERM and SIGHUP close the window; `asked` has the signal's number then."""

        def close():
            if self.asked:
                matplotlib.pyplot.close(self.viewer.figure)

        for number in (signal.SIGINT, *ENDING_SIGNALS):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: self.asked.append(number))
        # Python heeds a signal between its own steps alone, which a toolkit that waits for keys has none of
        self.timer = self.viewer.figure.canvas.new_timer(SIGNALS_HEEDED, [(close, (), {})])
        self.timer.start()

    # ------------------------------------------------------------ places

    def place(self):
        """Put the controls in a row at the lower edge."""
        figure = self.viewer.figure
        width, height = figure.get_size_inches() * PER_INCH
        most = f"{len(self.album.photos):,}"
        rooms = [length(text, 9) + 2 * SLIDER for text in (f"photo {most} of {most}", "opacity 0.00   h: keys")]
        span, left = max(width - 2 * EDGE - sum(rooms), 40) / 2, EDGE
        for slider, word, room in zip((self.photo_slider, self.opacity_slider), self.words, rooms, strict=True):
            slider.ax.set_position((left / width, EDGE / height, span / width, SLIDER / height))
            word.set_position(((left + span + SLIDER) / width, (EDGE + SLIDER / 2) / height))
            left += span + room

    def on_resize(self, _):
        self.place()
        self.viewer.show()
        self.draw()

    def draw(self):
        self.words[0].set_text(f"photo {self.album.position + 1:,} of {len(self.album):,}")
        self.words[1].set_text(f"opacity {self.viewer.style.opacity:.2f}   h: keys")
        self.viewer.figure.canvas.draw_idle()

    # ------------------------------------------------------------ photos

    def go_to(self, position):
        """Show another photo of those chosen; beyond the ends, the last one there is."""
        position = min(max(position, 0), len(self.album) - 1)
        if position != self.album.position:
            self.album.position = position
            self.say()
            self.show_photo()
        if self.photo_slider.val != position + 1:
            self.photo_slider.set_val(position + 1)  # calls this again, with the same position
        self.draw()

    def show_photo(self):
        """Read and draw the photo, in full: a part of another one may have been looked at closely."""
        self.viewer.read()
        self.viewer.show()
        toolbar = self.viewer.figure.canvas.toolbar
        if toolbar is not None:
            toolbar.update()

    def arrange(self, chosen_filter=None, order=None):
        """Filter and order the photos; say so in the heading. False where no photo would be left."""
        if not self.album.arrange(chosen_filter, order, self.viewer.wanted_class):
            return False
        count, slider = len(self.album), self.photo_slider
        slider.valmax = max(count, 2)
        slider.ax.set_xlim(1, max(count, 2))
        self.say()
        self.show_photo()
        slider.set_val(self.album.position + 1)
        return True

    def next_filter(self):
        """All photos, those that are wrong, those predicted as the overlay's class; what would be empty is left out."""
        filters = ["all", "wrong", (self.viewer.overlay_class,)]
        now = filters.index(self.album.filter) if self.album.filter in filters else len(filters) - 1
        any(self.arrange(chosen_filter=filters[(now + step) % len(filters)]) for step in range(1, len(filters) + 1))

    def next_order(self):
        orders = self.album.orders
        self.arrange(order=orders[(orders.index(self.album.order) + 1) % len(orders)])

    # ------------------------------------------------------------ the overlay

    def set_opacity(self, opacity):
        self.viewer.style = self.viewer.style._replace(opacity=opacity)
        self.viewer.show_overlay()
        self.draw()

    def choose(self, kind=None, class_name=None):
        self.viewer.choose(kind, class_name)
        self.keep_order()

    def keep_order(self):
        """Order the photos anew where the class over the photo decides how."""
        if self.album.order == SCORED:
            self.arrange()

    def next_kind(self):
        kinds = list(self.viewer.content.maps)
        if kinds:
            self.choose(kind=kinds[(kinds.index(self.viewer.overlay_kind) + 1) % len(kinds)])

    def next_class(self, step):
        names = self.viewer.content.names
        if names:
            self.choose(class_name=names[(names.index(self.viewer.overlay_class) + step) % len(names)])

    def predicted_class(self):
        self.viewer.wanted_class = None
        self.show_photo()
        self.keep_order()

    def toggle_truth(self):
        self.viewer.with_truth = not self.viewer.with_truth
        self.viewer.show_truth()

    def on_click(self, event):
        """A map that is clicked on is laid over the photo, unless the toolbar's zoom or pan has the mouse."""
        toolbar = self.viewer.figure.canvas.toolbar
        if toolbar is not None and toolbar.mode:
            return
        for axes, cell in zip(self.viewer.panels[2:], self.viewer.cells, strict=False):
            if event.inaxes is axes:
                self.choose(*cell)
                self.draw()

    # ------------------------------------------------------------ words

    def say(self, *words):
        """What the heading says beside the photo: filter, order, and something of the moment."""
        album, shown = self.album, []
        if album.filter != "all":
            shown.append("wrong ones" if album.filter == "wrong" else f"predicted as {album.filter[0]}")
        if album.order != album.orders[0]:
            of = f" for {self.viewer.overlay_class}" if album.order == SCORED and self.viewer.wanted_class else ""
            shown.append(album.order + of)
        self.viewer.notes = [*shown, *words, album.annotations.problem]

    def matches(self):
        """The classes whose names hold what was typed, those first that begin with it."""
        typed = self.typed.casefold()
        found = [name for name in self.viewer.content.names if typed in name.casefold()]
        return sorted(found, key=lambda name: not name.casefold().startswith(typed))

    def type(self, key):
        """Take a key while a class's name is typed."""
        if key in ("enter", "escape"):
            found, self.typed = self.matches() if key == "enter" else [], None
            self.say()
            if found:
                self.choose(class_name=found[0])
        else:
            if key == "backspace":
                self.typed = self.typed[:-1]
            elif key and len(key) == 1:
                self.typed += key
            found = self.matches()
            names = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
            count = f"{len(found):,} of {len(self.viewer.content.names):,}"
            self.say(f"class: {self.typed}_", f"{count}: {names}" if found else "no class has such a name")
        self.viewer.show()

    def save(self):
        """Write the figure without its controls to the current folder, under a name that is not taken."""
        viewer = self.viewer
        figure = Figure(figsize=viewer.figure.get_size_inches(), dpi=SAVED_DPI)
        copy = Viewer(figure, self.album, class_name=viewer.wanted_class, style=viewer.style, kind=viewer.wanted_kind)
        copy.with_truth = viewer.with_truth
        copy.show_truth()
        path = free_name(name_without_suffix(viewer.saved.name).replace("/", "_"))
        try:
            write_whole(path, lambda file: figure.savefig(file, format="png"))
            self.say(f"saved as {path.resolve()}")
            print(f"saved {path.resolve()}", flush=True)
        except OSError as error:
            self.say(f"not saved: {error}")
        viewer.show()

    def on_key(self, event):
        viewer, last = self.viewer, len(self.album) - 1
        steps = {"left": -1, "right": 1, "pageup": -10, "pagedown": 10, "home": -last, "end": last}
        actions = {
            "up": lambda: self.next_class(-1),
            "down": lambda: self.next_class(1),
            "m": self.next_kind,
            "p": self.predicted_class,
            "t": self.toggle_truth,
            "f": self.next_filter,
            "o": self.next_order,
            "s": self.save,
            "h": lambda: self.help.set_visible(not self.help.get_visible()),
        }
        if self.typed is not None:
            self.type(event.key)
        elif event.key == "/":
            self.typed = ""
            self.type("")
        elif event.key == "q":
            matplotlib.pyplot.close(viewer.figure)
            return
        elif event.key in steps:
            self.go_to(self.album.position + steps[event.key])
        elif event.key in actions:
            actions[event.key]()
        self.draw()


def free_name(stem):
    """A path of a PNG file that does not exist: stem.png, else stem_2.png and so on."""
    names = itertools.chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
