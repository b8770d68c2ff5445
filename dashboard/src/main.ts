import { mount } from 'svelte';
import App from './App.svelte';
import { applyTheme, chosenTheme } from './lib/theme';
import './page.css';

const target = document.getElementById('app');
if (target === null) throw new Error('index.html has no element #app');

// Before anything is painted.
applyTheme(chosenTheme());
mount(App, { target });
