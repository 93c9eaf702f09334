import{g as o}from"./chunk-RLH3V6A7.js";function u(){return o("h1",{children:"Corpus"})}export{u as default};
