//! `tdxlab init`: the files it writes are valid and run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rstest::rstest;
use tdxlab_selftests::command::root;
use tdxlab_selftests::tdxlab;

#[test]
fn the_first_scenario_is_judged() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("lab");
    tdxlab!("init", &folder).assert().success();
    let scenario = folder.join("scenarios/first/hole.yaml");
    let text = fs::read_to_string(&scenario).unwrap();
    let schema = text
        .lines()
        .next()
        .unwrap()
        .split_once("$schema=")
        .unwrap()
        .1;
    let schema = scenario.parent().unwrap().join(schema);
    assert_eq!(
        fs::read_to_string(schema).unwrap(),
        fs::read_to_string(root().join("docs/scenario.schema.json")).unwrap()
    );
    for design in ["stock", "v3", "v5", "headtail"] {
        tdxlab!(
            "run",
            "--host",
            "sim",
            "--require",
            "sim",
            "--design",
            design,
            "--out"
        )
        .arg(place.path().join("reports"))
        .arg(folder.join("scenarios"))
        .assert()
        .success();
    }
}

#[rstest]
#[case("github", &[".github/workflows/tdxlab.yaml"])]
#[case("gitlab", &[".gitlab-ci.yml"])]
#[case("slurm", &["ci/slurm/nightly.sbatch", "ci/slurm/merge.sbatch", "ci/sweep"])]
fn an_engine_gets_its_files(#[case] engine: &str, #[case] files: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    tdxlab!("init", place.path(), "--ci", engine)
        .assert()
        .success();
    for file in files {
        let path = place.path().join(file);
        let executable = fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
        let script = fs::read_to_string(&path).unwrap().starts_with("#!");
        assert_eq!(executable, script, "{file}");
    }
}

#[test]
fn nothing_is_written_over() {
    let place = tempfile::tempdir().unwrap();
    let mine = place.path().join(".gitlab-ci.yml");
    fs::write(&mine, "mine").unwrap();
    tdxlab!("init", place.path(), "--ci", "gitlab")
        .assert()
        .code(64);
    assert_eq!(fs::read_to_string(mine).unwrap(), "mine");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
