//! `anabranch doctor`: examines a replica's file, explains what is wrong, repairs what can be.

use std::process::ExitCode;

use anabranch_replica::{Finding, examine};
use serde_json::{Value as Json, json};

use super::replica::must_exist;
use crate::{args::DoctorArgs, failure::Failure};

/// Runs the command. The exit code is 1 where something is wrong and was not repaired.
pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<ExitCode, Failure> {
    must_exist(&args.file)?;
    let findings = examine(&args.file, args.repair)?;
    let repaired = |finding: &Finding| args.repair && finding.trouble.repair().is_some();
    if json {
        let found: Vec<Json> = findings
            .iter()
            .map(|finding| as_json(finding, repaired(finding)))
            .collect();
        println!("{}", json!({ "findings": found }));
    } else {
        findings
            .iter()
            .for_each(|finding| print(finding, repaired(finding)));
        if findings.is_empty() {
            println!("{} is sound", args.file.display());
        } else if !args.repair {
            println!("nothing was changed; --repair repairs what can be repaired");
        }
    }
    Ok(if findings.iter().all(repaired) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn as_json(finding: &Finding, repaired: bool) -> Json {
    json!({
        "trouble": format!("{:?}", finding.trouble),
        "table": finding.table,
        "count": finding.count,
        "explanation": finding.trouble.explanation(),
        "repair": finding.trouble.repair(),
        "repaired": repaired,
    })
}

fn print(finding: &Finding, repaired: bool) {
    let place = finding.table.as_deref().unwrap_or("the file");
    println!(
        "{place}: {} ({})",
        finding.trouble.explanation(),
        finding.count
    );
    let repair = finding.trouble.repair();
    match (repair, repaired) {
        (Some(repair), true) => println!("  repaired: {repair}"),
        (Some(repair), false) => println!("  a repair {repair}"),
        (None, _) => println!(
            "  nothing can be done here: save what is pending with `anabranch inspect`, make a new \
             file, and let the store fill it"
        ),
    }
}
