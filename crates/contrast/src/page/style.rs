//! How pages look.

/// The style of all pages. Sizes are of the reader's own choice of text; the ten colours `p` of phases and the
/// eight colours `s` of series differ in lightness where they meet, so that they differ to all eyes.
pub(super) const STYLE: &str = "\
:root{
color-scheme:light dark;
--paper:#fcfcfa;--ink:#21262c;--soft:#59626c;--rule:#dcdfe2;--band:#f2f3f1;--mark:#1f6aa5;--cloud:#8fb8d8;
--good:#1e7145;--bad:#a83a22;
--p0:#88ccee;--q0:#14181c;--p1:#332288;--q1:#fff;--p2:#ddcc77;--q2:#14181c;--p3:#117733;--q3:#fff;
--p4:#ee99aa;--q4:#14181c;--p5:#882255;--q5:#fff;--p6:#aaaa33;--q6:#14181c;--p7:#7a3fa0;--q7:#fff;
--p8:#44aa99;--q8:#14181c;--p9:#c9ccd0;--q9:#14181c;
--s0:#1f6aa5;--s1:#b8480e;--s2:#1b7f5c;--s3:#8a2a72;--s4:#7a6200;--s5:#3b3f46;--s6:#4a3aa8;--s7:#a3324a;
}
@media (prefers-color-scheme:dark){:root{
--paper:#14171a;--ink:#e3e6e9;--soft:#98a2ac;--rule:#31373d;--band:#1c2024;--mark:#82bde8;--cloud:#3f6f95;
--good:#6cc495;--bad:#ee8b70;
--p0:#88ccee;--q0:#14181c;--p1:#5a4bc0;--q1:#fff;--p2:#ddcc77;--q2:#14181c;--p3:#1b7f3e;--q3:#fff;
--p4:#ee99aa;--q4:#14181c;--p5:#a03a70;--q5:#fff;--p6:#aaaa33;--q6:#14181c;--p7:#8a55b5;--q7:#fff;
--p8:#55bbaa;--q8:#14181c;--p9:#565c63;--q9:#fff;
--s0:#82bde8;--s1:#f0935a;--s2:#62c9a2;--s3:#df8fcb;--s4:#d9bf55;--s5:#c3c9d0;--s6:#a79df2;--s7:#f08fa3;
}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,\"Segoe UI\",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem;overflow-wrap:anywhere}
h1{margin:0 0 1.25rem;font-size:1.6rem;line-height:1.25;font-weight:600;letter-spacing:-.01em;text-wrap:balance}
h1::first-letter{text-transform:uppercase}
h2{margin:3rem 0 .75rem;font-size:1.1rem;line-height:1.3;font-weight:600}
h3{margin:1.75rem 0 .5rem;font-size:.95rem;font-weight:600}
p,ul{margin:.5rem 0;max-width:44rem}
ul{padding-left:1.15rem}
li{margin:.2rem 0}
li::marker{color:var(--soft)}
.soft,figcaption{color:var(--soft);font-size:.875rem}
.notice{margin:1.25rem 0;padding:.8rem 1rem;background:var(--band);border-left:.25rem solid var(--soft)}
.notice p{margin:0;font-weight:600}
.notice ul{margin-bottom:0}
.good{border-color:var(--good)}.good span{color:var(--good)}
.bad{border-color:var(--bad)}.bad span{color:var(--bad)}
.wide{overflow-x:auto;margin:.75rem 0}
.wide:focus-visible{outline:2px solid var(--mark);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.8125rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.4rem .5rem;text-align:right;vertical-align:baseline;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:500}
th:first-child,td:first-child{padding-left:0;text-align:left}
th:last-child,td:last-child{padding-right:0}
th:first-child{position:sticky;left:0;background:var(--paper)}
table.words th,table.words td{text-align:left;white-space:normal;min-width:6rem}
th[scope=row]{max-width:16rem;white-space:normal;overflow-wrap:break-word}
th[scope=col]{color:var(--soft);font-size:.75rem;white-space:normal;vertical-align:bottom}
dl{margin:.75rem 0;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:0 2rem;font-size:.875rem}
dl div{display:flex;justify-content:space-between;gap:1rem;padding:.35rem 0;border-bottom:1px solid var(--rule)}
dt{color:var(--soft);flex:none;max-width:60%}
dd{margin:0;text-align:right;min-width:0}
pre{margin:.5rem 0;padding:.7rem .85rem;background:var(--band);white-space:pre-wrap;font:.8rem/1.5 ui-monospace,\"SF Mono\",Menlo,Consolas,monospace}
figure{margin:1rem 0 1.75rem}
figcaption{margin-top:.5rem;max-width:44rem}
svg{display:block;width:100%;height:auto}
.phone{max-width:30rem}
.desk{display:none}
@media (min-width:46rem){.desk{display:block}.phone{display:none}}
svg text{font-size:13px;fill:var(--ink)}
svg .tick{font-size:12px;fill:var(--soft)}
svg .value{font-variant-numeric:tabular-nums}
svg .name,svg .value{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
svg .number{font-size:12px;font-weight:600}
.grid{stroke:var(--rule);stroke-width:1}
.dot{fill:var(--mark);fill-opacity:.55}
.interval{fill:var(--cloud);fill-opacity:.5}
.median{stroke:var(--ink);stroke-width:2}
.baseline{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4}
.part{stroke:var(--paper);stroke-width:1}.slim{stroke:none}
.leader{stroke:var(--soft);stroke-width:.75;stroke-opacity:.5}
.curve{fill:none;stroke-width:1.75;stroke-linejoin:round}
.sign{stroke:var(--paper);stroke-width:1}
.legend{list-style:none;margin:.25rem 0 1rem;padding:0;display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;font-size:.875rem}
.legend li{display:flex;align-items:center;gap:.45rem;margin:0}
.legend b{min-width:1.4rem;padding:0 .25rem;border-radius:2px;font-size:.75rem;line-height:1.25rem;text-align:center;font-weight:600}
.p0{fill:var(--p0);background:var(--p0);color:var(--q0)}svg .q0{fill:var(--q0)}
.p1{fill:var(--p1);background:var(--p1);color:var(--q1)}svg .q1{fill:var(--q1)}
.p2{fill:var(--p2);background:var(--p2);color:var(--q2)}svg .q2{fill:var(--q2)}
.p3{fill:var(--p3);background:var(--p3);color:var(--q3)}svg .q3{fill:var(--q3)}
.p4{fill:var(--p4);background:var(--p4);color:var(--q4)}svg .q4{fill:var(--q4)}
.p5{fill:var(--p5);background:var(--p5);color:var(--q5)}svg .q5{fill:var(--q5)}
.p6{fill:var(--p6);background:var(--p6);color:var(--q6)}svg .q6{fill:var(--q6)}
.p7{fill:var(--p7);background:var(--p7);color:var(--q7)}svg .q7{fill:var(--q7)}
.p8{fill:var(--p8);background:var(--p8);color:var(--q8)}svg .q8{fill:var(--q8)}
.p9{fill:var(--p9);background:var(--p9);color:var(--q9)}svg .q9{fill:var(--q9)}
.curve.s0{stroke:var(--s0)}.sign.s0{fill:var(--s0)}
.curve.s1{stroke:var(--s1)}.sign.s1{fill:var(--s1)}
.curve.s2{stroke:var(--s2)}.sign.s2{fill:var(--s2)}
.curve.s3{stroke:var(--s3)}.sign.s3{fill:var(--s3)}
.curve.s4{stroke:var(--s4)}.sign.s4{fill:var(--s4)}
.curve.s5{stroke:var(--s5)}.sign.s5{fill:var(--s5)}
.curve.s6{stroke:var(--s6)}.sign.s6{fill:var(--s6)}
.curve.s7{stroke:var(--s7)}.sign.s7{fill:var(--s7)}
@media (max-width:45.99rem){main{padding:1.5rem 1rem 3rem}h1{font-size:1.35rem}h2{margin-top:2.25rem}th[scope=row]{max-width:8.5rem}}
@media print{body{background:#fff}section{break-inside:avoid}}
";
