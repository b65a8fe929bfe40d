//! Name and description of a scenario.

use tdxlab_plan::plan_name;

use super::read::Reader;
use super::yaml::Node;

/// Checks the name, and that the description is there, and whole.
pub(super) fn check(reader: &mut Reader<'_>, name: &str, about: &str, root: &Node) {
    if !plan_name::is_of_scenario(name) {
        reader.wrong(
            root.key("scenario"),
            format!("`{name}` cannot be the name of a scenario"),
            "no name",
            "small letters, digits and `-`, in folders, such as `punch/head-and-tail`".to_owned(),
        );
    }
    let node = root.key("about");
    let mut wrong = |message: String, label: &str, help: &str| {
        reader.wrong(node, message, label, help.to_owned());
    };
    let odd = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    if about.trim().is_empty() {
        let help = "say in a sentence what it shows";
        wrong("`about` says nothing".to_owned(), "empty", help);
    } else if node.comment {
        wrong(
            "a ` #` begins a comment, so `about` ends before it".to_owned(),
            "all that is read",
            "put the text into quotes: `about: \"...\"`; a comment goes on a line of its own",
        );
    } else if let Some(letter) = about.chars().find(odd) {
        wrong(
            format!(
                "`about` has the control character U+{:04X}",
                u32::from(letter)
            ),
            "cannot be printed",
            "remove it",
        );
    }
}
