"""Explore a photo live, in the browser: networks stay loaded, and each knob shows its maps at once.

    python explore_maps.py                                    # the photos of data/photos, the shipped networks
    python explore_maps.py my_photo.jpg --network VGG16       # any network of keras.applications
    python explore_maps.py --network resnet.keras models/vgg16_4class.h5 --port 8000

It ends with Ctrl-C. The page is served to this machine alone (127.0.0.1), asks nothing of the internet and keeps no
photo. Drop, paste or take a photo; choose a network or two, methods, layers and classes; a click on a map says its
value. It needs pip install -r requirements-app.txt.

The equations are those of make_cam_maps.py and gradcam_vgg16.py, in camlib/attribution; the page also gives the
commands that write the same maps.
"""

import html
import importlib.util
import logging
import os
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -I and -P leave out

from camlib import explore
from camlib.attribution import METHODS
from camlib.console import ArgumentParser, UserError, run_script, whole_number
from camlib.files import LARGEST_MODEL
from camlib.networks import GAP_NETWORK, IMAGENET, VGG_NETWORK, application_names
from camlib.networks.reader import check_source
from camlib.options import add_pixel_option
from camlib.photos import SHIPPED_PHOTOS, find_photos
from camlib.plots import OPACITY
from camlib.preprocessing import OWN_PREPROCESSING, PREPROCESSING

# ---------------------------------------------------------------- settings

ADDRESS = "127.0.0.1"  # this machine alone
FOLDER = Path(explore.__file__).parent  # of the page's style and script
FIRST_PHOTO = SHIPPED_PHOTOS / "two" / "coco196393_cat_and_parakeet.jpg"
NETWORKS = [
    ("without pooling: dog, cat, horse, bird", str(GAP_NETWORK)),
    ("VGG-16: dog, cat, horse, bird", str(VGG_NETWORK)),
    ("VGG-16 of ImageNet (553 MB once)", IMAGENET),
]
METHOD_CHOICES = [("CAM", "cam")] + [
    (method.title + (" (slow)" if method.samples or "scores" in method.needs else ""), name)
    for name, method in METHODS.items()
]
WAITING = "<p>The maps come here. One request is answered at a time, of all pages that are open.</p>"
COMMANDS = "commands that write the same arrays; what was dropped has to be named by its path"
MOST_CLASSES = 8  # chosen at a time
CLICK = "shown layer kind name across down".split()  # what the page's script says of one

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("photo", type=Path, nargs="?", metavar="PHOTO", help="default: one of data/photos")
    add_pixel_option(parser)
    parser.add_argument(
        "--network",
        nargs="+",
        default=[str(GAP_NETWORK)],
        metavar="FILE|NAME",
        help="one or two: .h5 or .keras files, or networks of keras.applications; default: the shipped one without "
        "pooling",
    )
    parser.add_argument("--port", type=whole_number(1, 65535), metavar="N", help="default: a free one from 7860 on")
    parser.add_argument("--no-browser", action="store_true", help="open none, only say the address")
    args = parser.parse_args(arguments)
    if len(args.network) > 2:
        parser.error(f"--network names {len(args.network)}; expected one or two")
    return args


# ---------------------------------------------------------------- the page


def network_block(gr, source, label):
    """The knobs of one network: dict of name -> component."""
    choices = [*NETWORKS, *((name, name) for name in application_names())]
    told = [*PREPROCESSING, *OWN_PREPROCESSING]
    block = {
        "source": gr.Dropdown(
            choices + [(source, source)] * (source not in dict(choices).values()),
            value=source,
            label=label,
            info="or type the path of a file, .keras or .h5",
            allow_custom_value=True,
        ),
        "file": gr.UploadButton("or a file of your own", size="sm"),
        "methods": gr.Dropdown(METHOD_CHOICES, label="methods", multiselect=True),
        "layers": gr.Dropdown([], label="layers", info="for Grad-CAM and its family", multiselect=True),
        "place": gr.Slider(1, 2, step=1, label="one layer, from the first to the last"),
    }
    with gr.Accordion("--preprocess, --size, names", open=False):
        label = "what a pixel becomes, if not as the file says (--preprocess)"
        block["preprocess"] = gr.Dropdown(told, value=None, label=label, allow_custom_value=True)
        block["size"] = gr.Textbox(label="size in pixels, N or HEIGHTxWIDTH, then Enter (--size)")
        block["names"] = gr.File(label="class names, a text file, one a line (--class-names)", height=110)
    return block


def build_page(gr, app, args):
    """The page: gr.Blocks, with its knobs wired to the app."""

    first, label = args.photo or (FIRST_PHOTO if FIRST_PHOTO.exists() else None), "photo: drop, paste, or take one"
    with gr.Blocks(title="Explore maps", analytics_enabled=False, fill_width=True) as page, gr.Row(elem_id="explore"):
        with gr.Column(elem_id="photo"):
            photo = gr.Image(first and str(first), type="filepath", label=label, height=300)
            # the file as it came: the project's own reader reads it, with its limits, not Gradio
            photo.preprocess = lambda payload: payload and payload.path
            if app.shipped:
                paths = [[str(path)] for path in app.shipped]
                gr.Examples(paths, photo, label="photos of data/photos", examples_per_page=8)
        with gr.Column(elem_id="maps"):
            maps = gr.HTML(WAITING, js_on_load=(FOLDER / "explore.js").read_text("utf-8"))
            told = gr.HTML(elem_id="told")
        with gr.Column(elem_id="settings"):
            classes = gr.Dropdown([], label="classes", multiselect=True, max_choices=MOST_CLASSES)
            look = [
                gr.Slider(0, 1, OPACITY, step=0.05, label="opacity"),
                gr.Slider(0, 1, 0, step=0.05, label="threshold: the share of the scale below which nothing shows"),
                gr.Checkbox(label="photo in colour"),
            ]
            guided = gr.Checkbox(label="guided backpropagation and guided maps too")
            blocks = [network_block(gr, args.network[0], "network")]
            with gr.Accordion("a second network beside it", open=len(args.network) > 1):
                blocks.append(network_block(gr, (args.network[1:] or [None])[0], "second network"))
            save = gr.Button("make files of what is shown")
            files = gr.Files(label="files: over the photo, transparent, and the arrays", visible=False)
            commands = gr.Textbox(label=COMMANDS, lines=2, buttons=["copy"])
        shown = gr.State()
        explain = wire_networks(gr, app, page, blocks, [photo, classes, guided, *look], [shown, maps, commands])
        knobs = [block[name].input for block in blocks for name in ("methods", "layers")]
        gr.on([photo.change, classes.input, guided.input, *knobs], **explain)
        alone = {"api_visibility": "private", "show_progress": "hidden"}  # these ask no network, and wait for none

        def tell(view, event: gr.EventData):
            click = {name: getattr(event, name) for name in CLICK}
            return f"<p>{html.escape(app.tell(view, click))}</p>"

        gr.on([one.input for one in look], app.draw, [shown, *look], maps, trigger_mode="always_last", **alone)
        maps.click(tell, shown, told, **alone)
        save.click(app.save, [shown, *look], files, **alone)
        shown.change(app.forget, outputs=[told, files], **alone)
    return page


def wire_networks(gr, app, page, blocks, others, outputs):
    """Let the choice of a network offer its layers and methods; returns the settings of the event that explains.

    Args:
        gr, app: as for `build_page`.
        page: gr.Blocks.
        blocks: list of two dicts, see `network_block`.
        others, outputs: lists of components that `App.explain` takes before those of the blocks, and returns.
    """
    turn = {"concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}  # one after the other
    facts = [[block[name] for name in ("source", "preprocess", "size", "names")] for block in blocks]
    asked = [[*of_block, block["methods"], block["layers"]] for of_block, block in zip(facts, blocks, strict=True)]
    explain = {"fn": app.explain, "inputs": [*others, *asked[0], *asked[1]], "outputs": outputs}
    for number, block in enumerate(blocks):
        methods, layers, place, classes = block["methods"], block["layers"], block["place"], others[1]
        source, preprocess, size, names = facts[number]
        block["file"].upload(lambda path: path, block["file"], source, api_visibility="private")
        changes = [page.load, source.change, preprocess.input, size.submit, names.change]
        known = [classes, *facts[0], *facts[1]]
        chosen = gr.on(changes, partial(app.choose, number), known, [classes, layers, place, methods], **turn)
        chosen.then(**explain, **turn)
        known = [place, methods, *facts[number]]
        moved = place.input(app.layer_at, known, [layers, methods], trigger_mode="always_last", **turn)
        moved.then(**explain, **turn)
    return {**explain, **turn, "trigger_mode": "always_last"}


def main(arguments=None):
    args = parse_arguments(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("Gradio is not installed; expected what pip install -r requirements-app.txt installs")
    for source in args.network:
        check_source(source)
    if args.photo:
        if args.photo.is_dir():
            raise UserError(f"{args.photo} is a folder; expected a photo")
        find_photos([args.photo], args.most_pixels)
    with tempfile.TemporaryDirectory(prefix="explore_maps_") as folder:  # what the browser hands over, until the end
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), ADDRESS]))
        print("loading the network", flush=True)
        import camlib.backend  # noqa: F401, I001 - first of all: it starts Keras without its start-up lines
        import gradio as gr
        from camlib.explore.app import App
        from camlib.explore.live import Explorer

        logging.getLogger("tensorflow").setLevel("ERROR")  # many layers are many programs, and it warns of that
        app = App(gr.update, Explorer(args.most_pixels), Path(folder, "files"), args.photo)
        facts = ("", "", None)  # of its pixels, size and names: what the file says
        app.choose(0, [], args.network[0], *facts, (args.network[1:] or [None])[0], *facts)  # loaded, and kept
        page = build_page(gr, app, args)
        fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # of this machine
        try:
            _, address, _ = page.launch(
                server_name=ADDRESS,
                server_port=args.port,
                share=False,
                inbrowser=not args.no_browser,
                prevent_thread_lock=True,
                quiet=True,
                theme=gr.themes.Default(**fonts),
                css_paths=FOLDER / "explore.css",
                footer_links=[],
                ssr_mode=False,
                max_file_size=f"{LARGEST_MODEL:.0f}gb",
            )
        except OSError as error:
            raise UserError(f"--port {args.port} is taken; expected another, or none") from error
        print(f"explore at {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    run_script(main, "the same command opens the page again")
