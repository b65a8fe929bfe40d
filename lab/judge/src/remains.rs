//! What a guest took from the machine must be back when it has gone.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_journal::{Reading, Taken};

use super::findings::Findings;

/// Everything that was in use before the guest, and no more, is in use after it.
pub(super) fn given_back(taken: &[Taken], findings: &mut Findings) {
    for one in taken {
        let after = match &one.after {
            Reading::Read(after) => *after,
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                findings.missing(Witness::Remains, format!("{}: {reason}", one.what));
                continue;
            }
        };
        findings.heard(Witness::Remains);
        if one.is_too_much() {
            let by = match one.detail.as_str() {
                "" => String::new(),
                who => format!(", in {who}"),
            };
            findings.find(Finding::wrong(
                Witness::Remains,
                format!("{}: {}, as before the guest", one.what, one.before),
                format!("{after} after it has gone{by}"),
            ));
        }
    }
}
