//! `report.html` in a real browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::runs::run;
use tdxlab_selftests::programs::{output_of, program};

const GOOD: &str = "punch/head-and-tail.yaml";

/// A headless Chromium with a temporary profile.
struct Browser {
    program: PathBuf,
    profile: TempDir,
}

impl Browser {
    fn find() -> Option<Browser> {
        let program = program(
            &["chromium", "chromium-browser", "google-chrome"],
            "the page",
        )?;
        let profile = tempfile::tempdir().unwrap();
        Some(Browser { program, profile })
    }

    fn command(&self, width: u32) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
                "--virtual-time-budget=5000",
            ])
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .arg(format!("--window-size={width},1200"));
        command
    }

    /// The page after its scripts ran, and after `script`, which stores its result in
    /// `document.body.dataset.found`. The console must be empty.
    fn visit(&self, page: &Path, script: &str, width: u32) -> String {
        let text = fs::read_to_string(page).unwrap();
        let copy = page.with_file_name("visited.html");
        let probe = format!(
            "<script>document.body.dataset.found = JSON.stringify((() => {{{script}}})());</script></body>"
        );
        fs::write(&copy, text.replacen("</body>", &probe, 1)).unwrap();
        let output = self
            .command(width)
            .arg("--dump-dom")
            .arg(format!("file://{}", copy.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let console: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("CONSOLE"))
            .collect();
        assert_eq!(console, [""; 0]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `script` returns, as JSON.
    fn ask(&self, page: &Path, script: &str, width: u32) -> serde_json::Value {
        found(&self.visit(page, script, width))
    }

    /// What `script` returns on a page of this width. A window cannot be as narrow as a phone, a
    /// frame in it can.
    fn ask_in_frame(&self, page: &Path, script: &str, width: u32) -> serde_json::Value {
        let text = fs::read_to_string(page).unwrap();
        let probe = format!(
            "<script>parent.postMessage(JSON.stringify((() => {{{script}}})()), '*');</script></body>"
        );
        let inner = page.with_file_name("framed.html");
        fs::write(&inner, text.replacen("</body>", &probe, 1)).unwrap();
        let outer = page.with_file_name("frame.html");
        let frame = format!(
            "<!DOCTYPE html><body><script>addEventListener('message', (event) => {{
                document.body.dataset.found = event.data; }});</script>
            <iframe src=framed.html width={width} height=1200 style='border:0'></iframe></body>"
        );
        fs::write(&outer, frame).unwrap();
        let mut command = self.command(1600);
        let address = format!("file://{}", outer.display());
        found(&output_of(command.arg("--dump-dom").arg(address)))
    }
}

/// The result a script stored in the page.
fn found(dom: &str) -> serde_json::Value {
    let found = dom
        .split_once("data-found=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(found, _)| found.replace("&quot;", "\"").replace("&amp;", "&"))
        .unwrap_or_else(|| panic!("the script did not run:\n{dom}"));
    serde_json::from_str(&found).unwrap()
}

fn page(fault: Option<&str>, reports: &TempDir) -> PathBuf {
    run(GOOD, fault, reports.path()).folder.join("report.html")
}

/// Every picture's outlines: class and address.
const OUTLINES: &str = "return [...document.querySelectorAll('path.sp[data-gpa]')]
    .map((p) => [p.getAttribute('class'), p.dataset.gpa]);";

#[test]
fn leaves_that_split_are_outlined_where_they_are() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let reports = tempfile::tempdir().unwrap();
    let found = browser.ask(&page(None, &reports), OUTLINES, 1400);
    let wanted = serde_json::json!([["sp ok", "0x40000000"], ["sp ok", "0x40a00000"]]);
    assert_eq!(found, wanted);
}

#[test]
fn a_split_that_is_missing_is_outlined_as_missing_over_its_cells() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let reports = tempfile::tempdir().unwrap();
    let page = page(Some("tail-split-missing"), &reports);
    let found = browser.ask(&page, OUTLINES, 1400);
    let wanted = serde_json::json!([["sp ok", "0x40000000"], ["sp missing", "0x40a00000"]]);
    assert_eq!(found, wanted);
    // The outline encloses the sixth region, and the bracket ends in its middle.
    let places = browser.ask(
        &page,
        "const svg = document.querySelector('path.sp.missing[data-gpa]').closest('svg');
         const box = (e) => { const b = e.getBBox(); return [b.x, b.x + b.width]; };
         return [box(svg.querySelector('path.sp.missing[data-gpa]')), box(svg.querySelector('path.k'))];",
        1400,
    );
    let places: Vec<Vec<f64>> = serde_json::from_value(places).unwrap();
    let (leaf, hole) = (&places[0], &places[1]);
    assert_eq!(leaf[1] - leaf[0], 96.0, "{places:?}");
    assert_eq!(hole[1], leaf[0] + 48.0, "{places:?}");
}

#[test]
fn filter_and_search_leave_what_was_asked_for() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let reports = tempfile::tempdir().unwrap();
    let page = run("punch", None, reports.path())
        .folder
        .join("report.html");
    let script =
        "const shown = () => [...document.querySelectorAll('details.s')].filter((d) => !d.hidden);
        const search = document.querySelector('#search');
        const all = shown().length;
        search.value = 'head-and-tail'; search.dispatchEvent(new Event('input'));
        const searched = shown().map((d) => d.querySelector('summary b').textContent);
        search.value = ''; search.dispatchEvent(new Event('input'));
        document.querySelector('[data-f=skip]').click();
        const filtered = shown().map((d) => d.dataset.v);
        const told = document.querySelector('#count').textContent;
        return { all, searched, filtered, told };";
    let found = browser.ask(&page, script, 1400);
    assert_eq!(
        found["searched"],
        serde_json::json!(["punch/head-and-tail"])
    );
    let filtered = found["filtered"].as_array().unwrap();
    assert!(!filtered.is_empty());
    assert!(filtered.iter().all(|verdict| verdict == "skip"), "{found}");
    let told = format!("{} of {} scenarios", filtered.len(), found["all"]);
    assert_eq!(found["told"], told);
}

#[test]
fn a_picture_grows_when_zoomed_by_keyboard_and_says_so_to_screen_readers() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let reports = tempfile::tempdir().unwrap();
    let script = "document.querySelector('details.s').open = true;
        const figure = document.querySelector('figure'), svg = figure.querySelector('svg.m');
        const before = svg.getBoundingClientRect().width;
        figure.focus();
        figure.dispatchEvent(new KeyboardEvent('keydown', { key: '+', bubbles: true }));
        const after = svg.getBoundingClientRect().width;
        const mute = [...document.querySelectorAll('svg.m, button, input')].filter((e) =>
            !(e.getAttribute('aria-label') || e.textContent.trim()));
        return { focused: document.activeElement === figure, ratio: after / before, mute: mute.length };";
    let found = browser.ask(&page(None, &reports), script, 1400);
    assert_eq!(found["focused"], true);
    assert_eq!(
        found["ratio"].as_f64().map(f64::round),
        Some(2.0),
        "{found}"
    );
    assert_eq!(found["mute"], 0);
}

#[test]
fn nothing_sticks_out_of_a_phone_or_a_wide_screen() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let reports = tempfile::tempdir().unwrap();
    let page = page(Some("tail-split-missing"), &reports);
    for width in [400, 1400] {
        let script = "document.querySelectorAll('details.s').forEach((d) => d.open = true);
            return [document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth];";
        let found = browser.ask_in_frame(&page, script, width);
        assert_eq!(found[0], found[1], "at {width}");
        assert_eq!(found[2], width);
        let picture = page.with_file_name("page.png");
        output_of(
            browser
                .command(width)
                .arg(format!("--screenshot={}", picture.display()))
                .arg(format!("file://{}", page.display())),
        );
        let png = fs::read(&picture).unwrap();
        let pixels = u32::from_be_bytes(png[16..20].try_into().unwrap());
        assert_eq!(pixels, width);
    }
}

#[test]
fn the_page_needs_no_network_and_no_other_file() {
    let reports = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(page(None, &reports)).unwrap();
    for outside in [
        "http://",
        "https://",
        "src=\"",
        "@import",
        "url(\"",
        "<link rel=\"stylesheet",
    ] {
        assert!(!text.contains(outside), "{outside}");
    }
}

#[test]
fn the_page_of_the_default_set_takes_eight_kibibytes_a_scenario_with_every_picture() {
    let reports = tempfile::tempdir().unwrap();
    let folder = run("", None, reports.path()).folder;
    let text = fs::read_to_string(folder.join("report.html")).unwrap();
    let scenarios = tdxlab_selftests::recorded::report_of(&folder).scenarios;
    let (size, most) = (text.len(), scenarios.len() * (8 << 10));
    assert!(
        size < most,
        "{size} bytes for {} scenarios",
        scenarios.len()
    );
    let steps: usize = scenarios.iter().map(|scenario| scenario.steps.len()).sum();
    assert_eq!(text.matches("<svg class=\"m\"").count(), steps);
}

/// `cargo test -p tdxlab-selftests --test reports -- --ignored pictures` regenerates them.
#[test]
#[ignore = "writes the pictures of the documentation"]
fn pictures_of_the_documentation() {
    let browser = Browser::find().expect("a browser");
    for (name, fault, height) in [
        ("report-pass", None, 1330),
        ("report-fault", Some("tail-split-missing"), 1560),
    ] {
        let reports = tempfile::tempdir().unwrap();
        let page = page(fault, &reports);
        let text = fs::read_to_string(&page).unwrap();
        let open = text.replacen("<details class=\"s\"", "<details open class=\"s\"", 1);
        fs::write(&page, open).unwrap();
        let picture = tdxlab_selftests::command::root().join(format!("docs/{name}.png"));
        let mut command = browser.command(1400);
        command
            .args(["--hide-scrollbars", &format!("--window-size=1400,{height}")])
            .arg(format!("--screenshot={}", picture.display()))
            .arg(format!("file://{}", page.display()));
        output_of(&mut command);
    }
}
