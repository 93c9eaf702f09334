import{g as h}from"./chunk-RLH3V6A7.js";function t(){return h("h1",{children:"Chat"})}export{t as default};
