//! The playground, its table, and what to try by hand.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, TableComponent};
use rprox_tests::playground::{Playground, SERVICES};
use rprox_tests::table::{ROWS, Row, ask_all};
use rprox_tests::topology::{HOST, INTERFACE};

use crate::interrupt;
use crate::steps::Step;

/// Makes the playground, shows the table, and stays until Ctrl-C unless it is to be shown `once`.
pub(super) fn run(once: bool) -> Result<ExitCode> {
    interrupt::catch()?;
    let step = Step::begin("Lay out the playground, start the agent, attach the loader");
    let mut playground = Playground::running()?;
    step.finish("a client, a host, three services");

    let step = Step::begin("Ask each service in every way");
    let mut asked = 0;
    let rows = ask_all(&playground, |url| {
        asked += 1;
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            step.note(&format!("{asked} of {ROWS}: {url}"));
        }
    });
    let wrong = rows.iter().filter(|row| !row.faults.is_empty()).count();
    step.finish(&if wrong == 0 { format!("all {ROWS} right") } else { format!("{wrong} of {ROWS} wrong") });
    println!("{}", draw(&rows));

    if !once && !interrupt::came() {
        explain(&playground);
        stay(&mut playground)?;
    }
    let step = Step::begin("Take the playground down");
    if let Some(mut agent) = playground.agent.take() {
        agent.stop()?;
    }
    if let Some(mut loader) = playground.loader.take() {
        loader.stop()?;
    }
    drop(playground);
    step.finish("nothing is left");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn draw(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
    table
        .remove_style(TableComponent::MiddleIntersections)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["URL", "over", "pod that answered", "status", "ms", "client seen by the pod", ""]);
    for row in rows {
        let time = row.answer.as_ref().map(|answer| format!("{:.1}", answer.time.as_secs_f64() * 1e3));
        let verdict = if row.faults.is_empty() {
            Cell::new("ok").fg(Color::Green)
        } else {
            Cell::new(format!("WRONG: {}", row.faults.join("; "))).fg(Color::Red)
        };
        table.add_row([
            Cell::new(&row.url),
            Cell::new(format!("{}, {}", row.version, row.family())),
            Cell::new(row.pod().unwrap_or("none")),
            Cell::new(row.status()),
            Cell::new(time.unwrap_or_default()).set_alignment(CellAlignment::Right),
            Cell::new(row.client().unwrap_or("none")),
            verdict,
        ]);
    }
    table
}

fn explain(playground: &Playground) {
    let client = playground.topology.client.path();
    let host = playground.topology.host.path();
    let authority = playground.authority.display();
    let [first, second, _] = SERVICES;
    let (first, second, v4, v6) = (first.host, second.host, HOST.v4, HOST.v6);
    println!(
        "
The playground stays up until Ctrl-C. From another terminal, as root:

  Ask as the client does, by name and with its certificate checked:
    nsenter --net={client} curl --cacert {authority} --location \\
        --resolve {first}:80:{v4} --resolve {first}:443:{v4} http://{first}/
    nsenter --net={client} curl --cacert {authority} --resolve '{second}:443:[{v6}]' https://{second}/

  What the loader has attached, with its counters:
    {loader}

  A shell on the host, where {INTERFACE} is the chosen interface:
    nsenter --net={host} bash
",
        client = client.display(),
        host = host.display(),
        loader = rprox_tests::command::line(&playground.loader("status")),
    );
}

/// Returns on Ctrl-C.
fn stay(playground: &mut Playground) -> Result<()> {
    while !interrupt::came() {
        for process in [&mut playground.agent, &mut playground.loader].into_iter().flatten() {
            if let Some(status) = process.ended() {
                bail!("ended by itself ({status}):\n{}", process.said().join("\n"));
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
