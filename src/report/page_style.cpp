#include "report/page_style.h"

#include "lace/error.h"

#include "report/html.h"

namespace lace::report {

const std::string_view kStyle = R"(
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#566173;--rule:#dde1e8;
--grid:#e6e9ee;--track:#e9edf3;--good:#0f766e;--warn:#b42318;--shadow:0 1px 2px #1b233014;
--c0:#1f66b3;--c1:#c2410c;--c2:#0f766e;--c3:#7e3fa8;--c4:#a16207;--c5:#be185d;--c6:#4d7c0f;--c7:#475569}
@media (prefers-color-scheme:dark){:root{--paper:#12161d;--card:#1a202a;--ink:#e6eaf1;--soft:#a3adbd;
--rule:#303947;--grid:#2a323f;--track:#2a323f;--good:#5eead4;--warn:#ff9b8f;--shadow:none;
--c0:#6fb1f5;--c1:#ff9a5c;--c2:#4fd1c0;--c3:#cf9bf0;--c4:#e7c25b;--c5:#ff8fbe;--c6:#a8d65c;--c7:#a9b6c9}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;overflow-wrap:break-word;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:18px;margin:36px 0 12px}
p{margin:6px 0}
a{color:var(--c0)}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px}
code{overflow-wrap:anywhere}
.soft,figcaption span,small{color:var(--soft)}
.head{display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.state{font-size:13px;font-weight:600;padding:2px 10px;border-radius:99px;border:1px solid currentColor}
.state.training{color:var(--c0)}.state.finished{color:var(--good)}.state.stopped{color:var(--soft)}
.progress{height:6px;border-radius:3px;background:var(--track);margin:14px 0 18px;overflow:hidden}
.progress i{display:block;height:100%;background:var(--c0);border-radius:3px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0}
.tiles div,.card,.chart{background:var(--card);border:1px solid var(--rule);border-radius:10px;box-shadow:var(--shadow)}
.tiles div{padding:12px 14px;min-width:0}
.tiles dt{font-size:13px;color:var(--soft)}
.tiles dd{margin:0;font-size:22px;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.3}
.tiles dd small{display:block;font-size:13px;font-weight:400;line-height:1.4}
.card{padding:14px 16px;margin:0 0 14px;min-width:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;align-items:start}
.bar{display:flex;gap:12px;align-items:center;justify-content:space-between;flex-wrap:wrap;margin:36px 0 12px}
.bar h2{margin:0}
.radio{position:absolute;opacity:0;pointer-events:none}
.switch{display:inline-flex;border:1px solid var(--rule);border-radius:8px;overflow:hidden;background:var(--card)}
.switch label{padding:5px 14px;font-size:14px;cursor:pointer;color:var(--soft)}
.switch label+label{border-left:1px solid var(--rule)}
#across-steps:checked~main label[for=across-steps],#across-bytes:checked~main label[for=across-bytes],
#across-time:checked~main label[for=across-time]{background:var(--c0);color:var(--card);font-weight:600}
#across-steps:focus-visible~main label[for=across-steps],#across-bytes:focus-visible~main label[for=across-bytes],
#across-time:focus-visible~main label[for=across-time]{outline:3px solid var(--c1);outline-offset:-3px}
#across-steps:checked~main [class*=by-]:not(.by-steps),#across-bytes:checked~main [class*=by-]:not(.by-bytes),
#across-time:checked~main [class*=by-]:not(.by-time){display:none}
.chart{margin:0 0 14px;padding:14px 16px 10px;min-width:0}
.chart figcaption{margin-bottom:8px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;padding:0;margin:4px 0 0;font-size:13px}
.legend[hidden]{display:none}
.legend li{display:flex;align-items:center;gap:7px;min-width:0}
.legend li span{color:var(--ink);overflow-wrap:anywhere}
.legend i{flex:none;width:22px;height:0;border-top:3px solid;position:relative}
.legend .dashed i{border-top-style:dashed}
.legend .dotted i:after{content:"";position:absolute;width:8px;height:8px;border-radius:4px;background:currentColor;left:7px;top:-5.5px}
.legend .marked i{width:0;height:14px;border-top:0;border-left:2px dashed var(--warn);margin:0 10px}
.plot{position:relative;padding:8px 10px 24px 52px;touch-action:pan-y}
.area{position:relative;height:210px;border-bottom:1px solid var(--soft)}
.tall .area{height:320px}
.area svg{position:absolute;inset:0;width:100%;height:100%;overflow:hidden}
.area .unknown{position:absolute;inset:0;margin:0;display:grid;place-items:center;color:var(--soft)}
.area path{vector-effect:non-scaling-stroke;fill:none}
.grid{stroke:var(--grid);stroke-width:1}
.mark{stroke:var(--warn);stroke-width:1.5;stroke-dasharray:4 4}
.line{stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.line.dashed{stroke-dasharray:6 4}
.area .band{fill:currentColor;fill-opacity:.16;stroke:currentColor;stroke-opacity:.16;stroke-width:1}
.dots{stroke:currentColor;stroke-width:7;stroke-linecap:round}
.up{position:absolute;left:0;top:8px;bottom:25px;width:46px}
.up span{position:absolute;right:0;transform:translateY(50%);font-size:12px;line-height:1;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.across{position:absolute;left:52px;right:10px;bottom:2px;height:18px}
.across span{position:absolute;transform:translateX(-50%);font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.hair{position:absolute;top:0;bottom:0;width:1px;background:var(--soft);pointer-events:none}
.tip{position:absolute;top:4px;z-index:2;pointer-events:none;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:6px 10px;font-size:13px;line-height:1.45;box-shadow:0 4px 14px #0003;max-width:75%;width:max-content;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
.wide{width:100%}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--soft);white-space:nowrap}
td{overflow-wrap:anywhere}
td.num,th.num{text-align:right;white-space:nowrap}
th:first-child{min-width:7em}
tr:last-child td{border-bottom:0}
tr.own td{font-weight:650}
td.meter{width:45%;min-width:90px;vertical-align:middle}
.meter i{display:block;height:10px;border-radius:3px;background:var(--c7);opacity:.6}
.own .meter i{background:var(--c0);opacity:1}
details summary{cursor:pointer;color:var(--soft);font-size:14px;padding:4px 0}
summary:focus-visible{outline:3px solid var(--c1);outline-offset:2px}
.figures{margin-top:4px}.figures table{font-size:13px}
.parts{display:flex;height:18px;border-radius:5px;overflow:hidden;margin:8px 0;background:var(--track)}
.parts i{display:block;height:100%;background:currentColor;border-right:2px solid var(--card)}
.picture{background:#fff;border-radius:8px;padding:6px;overflow-x:auto}
.picture svg{display:block;max-width:none;height:auto}
@media (prefers-color-scheme:dark){.picture{filter:invert(.9) hue-rotate(180deg)}}
pre{margin:8px 0;padding:12px 14px;background:var(--paper);border:1px solid var(--rule);border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere;max-height:340px;overflow-y:auto;unicode-bidi:isolate;tab-size:4}
pre mark{background:none;color:var(--c0);font-weight:650}
.pixels{image-rendering:pixelated;max-width:100%;height:auto;display:block;border-radius:4px}
audio{display:block;width:100%;max-width:420px;height:40px;margin:6px 0}
.wave{display:block;width:100%;max-width:640px;height:60px;color:var(--c0)}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:16px}
.maps figure{margin:0;min-width:0}.maps img{width:100%}
.maps figcaption{font-size:13px;margin-top:4px;overflow-wrap:anywhere}
.settings{columns:3 300px;column-gap:14px}
.settings .card{break-inside:avoid}
.settings h3{font-size:14px;margin:0 0 6px}
.settings table{width:100%;table-layout:fixed;font-size:13px}
.settings td{overflow-wrap:anywhere;padding:3px 8px 3px 0}
.settings td:last-child{text-align:right;padding-right:0}
footer{margin-top:36px;font-size:13px;color:var(--soft)}
@media (max-width:560px){main{padding:18px 12px 36px}h1{font-size:22px}.tiles{grid-template-columns:1fr 1fr;gap:8px}
.tiles dd{font-size:19px}.card,.chart{padding:12px}.tall .area{height:240px}.across span:nth-child(even){display:none}
.plot{padding-left:42px;padding-right:6px}.up{width:37px}.across{left:42px;right:6px}.switch{width:100%}.switch label{flex:1;text-align:center}}
@media (prefers-reduced-motion:no-preference){.progress i{transition:width .3s}}
@media print{.switch,details.figures,audio{display:none}.card,.chart{break-inside:avoid}}
)";

const std::string_view kScript = R"((()=>{
const radios=[...document.querySelectorAll('input[name=across]')],key='lace-across';
try{const kept=radios[sessionStorage.getItem(key)??-1];if(kept)kept.checked=true;
radios.forEach((r,i)=>r.addEventListener('change',()=>sessionStorage.setItem(key,i)))}catch{}
const across=()=>Math.max(0,radios.findIndex(r=>r.checked));
const clock=s=>{if(s<9.95)return Number(s<.9995?s.toPrecision(3):s.toFixed(1))+' s';
s=Math.round(s);const two=n=>String(n).padStart(2,'0');
return s<60?s+' s':s<3600?Math.floor(s/60)+':'+two(s%60):Math.floor(s/3600)+':'+two(Math.floor(s/60)%60)+':'+two(s%60)};
const size=b=>{let u=0;for(;b>=1000&&u<4;++u)b/=1000;return Number(b.toPrecision(3))+' '+['B','kB','MB','GB','TB'][u]};
for(const plot of document.querySelectorAll('.plot')){
const area=plot.querySelector('.area'),high=JSON.parse(plot.dataset.high),bytes=JSON.parse(plot.dataset.bytes),
series=JSON.parse(plot.dataset.points),
names=[...plot.closest('figure').querySelectorAll('.legend li:not(.marked)')];
let hair,tip;
const leave=()=>{hair?.remove();tip?.remove();hair=tip=null};
area.addEventListener('pointerleave',leave);
area.addEventListener('pointermove',event=>{
const a=across(),box=area.getBoundingClientRect();
if(!high[a])return leave();
const x=(event.clientX-box.left)/box.width*high[a],at=(p,i)=>a==0?p[0]:a==1?p[0]*bytes[i]:p[1];
if(!hair){hair=document.createElement('div');hair.className='hair';tip=document.createElement('div');tip.className='tip';area.append(hair,tip)}
let best=null;const rows=[];
series.forEach((points,i)=>{
if(!points.length)return;
let low=0,top=points.length-1;
while(top-low>1){const middle=low+top>>1;at(points[middle],i)<x?low=middle:top=middle}
const p=x-at(points[low],i)<at(points[top],i)-x?points[low]:points[top];
if(!best||Math.abs(at(p,i)-x)<Math.abs(best.x-x))best={x:at(p,i),p,b:bytes[i]};
rows.push([i,p])});
if(!best)return leave();
tip.textContent='';
const head=document.createElement('div');
head.textContent='step '+best.p[0].toLocaleString('en')+(best.b?' · '+size(best.p[0]*best.b):'')+' · '+clock(best.p[1]);
tip.append(head);
for(const [i,p] of rows){const row=document.createElement('div'),name=document.createElement('b');
name.className='c'+(/c(\d)/.exec(names[i].className)||[0,0])[1];name.textContent=names[i].textContent;
row.append(name,' '+Number(p[2].toPrecision(4)).toLocaleString('en',{maximumSignificantDigits:4}));
if(series.length>2&&a<2)row.append(' (step '+p[0].toLocaleString('en')+')');tip.append(row)}
const left=best.x/high[a]*box.width;hair.style.left=left+'px';
if(left<box.width/2){tip.style.left=left+12+'px';tip.style.right='auto'}else{tip.style.left='auto';tip.style.right=box.width-left+12+'px'}
})}
if(document.body.dataset.state==='training')setInterval(()=>{
const busy=document.hidden||document.querySelector('details[open],.tip')||[...document.querySelectorAll('audio')].some(a=>!a.paused);
if(!busy)location.reload()},60000);
document.body.dataset.script='ready';
})();)";

const std::string_view kScriptHash = "sha256-3UcQ0I67mt0ULkuD8vjD+pYVt3yMtBsyDQrdvsETaOQ=";

const std::string_view kSwitch =
    "<div class=switch role=group aria-label=\"charts over\"><label for=across-steps>steps</label>"
    "<label for=across-bytes>bytes</label><label for=across-time>time</label></div>";

std::string page_begin(std::string_view title, std::string_view state) {
  return concat(
      "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n"
      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
      "media-src data:; style-src 'unsafe-inline'; script-src '",
      kScriptHash,
      "'; base-uri 'none'; form-action 'none'\">\n"
      "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
      "<link rel=icon href=\"data:,\"><title>",
      escaped(title), "</title>\n<style>", kStyle, "</style></head>\n<body data-state=\"",
      escaped(state),
      "\">\n<input class=radio type=radio name=across id=across-steps aria-label=\"over steps\" "
      "checked><input class=radio type=radio name=across id=across-bytes aria-label=\"over bytes\">"
      "<input class=radio type=radio name=across id=across-time aria-label=\"over "
      "time\">\n<main>\n");
}

std::string page_end() {
  return concat("</main>\n<script>", kScript, "</script>\n</body></html>\n");
}

}  // namespace lace::report
