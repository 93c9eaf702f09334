import{g as n}from"./chunk-RLH3V6A7.js";function u(){return n("h1",{children:"Runs"})}export{u as default};
