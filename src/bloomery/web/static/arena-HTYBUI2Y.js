import{g as e}from"./chunk-RLH3V6A7.js";function n(){return e("h1",{children:"Arena"})}export{n as default};
