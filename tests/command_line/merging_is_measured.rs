//! `anabranch bench merge` prints every case, each beside its limit.

use anabranch_testkit::bench::{CASES, ON_REQUEST};

use crate::common::succeed_json;

#[test]
fn every_case_has_a_figure_and_a_limit() {
    let printed = succeed_json(&["bench", "merge", "--rows", "2000", "--rounds", "1"]);
    assert_eq!(printed["bench"], "merge");
    let results = printed["results"].as_array().unwrap();
    let cases: Vec<&str> = results
        .iter()
        .map(|figure| figure["case"].as_str().unwrap())
        .collect();
    let is_due = |case: &&str| !ON_REQUEST.contains(case);
    let due: Vec<&str> = CASES.into_iter().filter(is_due).collect();
    assert_eq!(cases, due);
    for figure in results {
        let (ours, limit) = (
            figure["ours"].as_f64().unwrap(),
            figure["limit"].as_f64().unwrap(),
        );
        assert!(ours > 0.0 && limit > 0.0, "{figure}");
        assert!((figure["ratio"].as_f64().unwrap() - ours / limit).abs() < 1e-6);
        assert!(figure["unit"].is_string());
    }
}

#[test]
fn a_case_can_be_measured_alone() {
    let line = "bench merge --rows 500 --rounds 1 --case all_lose --case disk";
    let printed = succeed_json(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(printed["results"].as_array().unwrap().len(), 2);
}
